// The controls of the form: each with its label, a hint, and a place for its error.

import { element } from "../elements.js";
import { plain } from "../words.js";
import { ENDINGS } from "./upload.js";

export const pair = (...fields) => element("div", { className: "pair" }, fields);
export const group = (name, ...fields) => element("fieldset", {}, element("legend", {}, name), fields);

function field(label, control, hint) {
  const id = `field-${control.name}`;
  control.id = id;
  control.setAttribute("aria-describedby", `${id}-hint ${id}-error`);
  return element("div", { className: "field" }, element("label", { htmlFor: id }, label), control, notes(id, hint));
}

const notes = (id, hint) => [
  element("p", { className: "note", id: `${id}-hint` }, hint ?? ""),
  element("p", { className: "error", id: `${id}-error`, hidden: true })
];

export function text(name, label, values, { hint, ...options } = {}) {
  return field(
    label,
    element("input", {
      name,
      value: values[name] ?? "",
      spellcheck: false,
      autocomplete: "off",
      step: "any",
      ...options
    }),
    hint
  );
}

/** A text of a number. */
export const number = (name, label, values, options = {}) => text(name, label, values, { type: "number", ...options });

export function area(name, label, values, { hint, ...options } = {}) {
  return field(
    label,
    element("textarea", { name, value: values[name] ?? "", rows: 3, spellcheck: false, ...options }),
    hint
  );
}

/** A choice of `options`, pairs of a value and what is shown of it; the first is chosen where `values` has none. */
export function choice(name, label, options, values, hint) {
  const made = options.map(([value, shown]) =>
    element("option", { value, selected: value === (values[name] ?? options[0][0]) }, shown)
  );
  return field(label, element("select", { name }, made), hint);
}

/** An input whose file is uploaded; the data set is then named in the field `name`. */
export const fileInput = (name, label) =>
  element(
    "label",
    { className: "field" },
    element("span", {}, label),
    element("input", { type: "file", accept: ENDINGS, "data-names": name })
  );

export const named = (values) => values.map((value) => [value, plain(value)]);

/** Boxes of which any number is checked; those of `byDefault` where `values` has none. */
export function checks(name, label, options, values, { byDefault = "", hint } = {}) {
  const chosen = (values[name] ?? byDefault).split(",");
  const id = `field-${name}`;
  const boxes = options.map((value, index) =>
    element(
      "label",
      {},
      element("input", {
        type: "checkbox",
        id: index ? undefined : id,
        name,
        value,
        checked: chosen.includes(value),
        "aria-describedby": `${id}-hint ${id}-error`
      }),
      plain(value)
    )
  );
  return element("fieldset", { className: "checks" }, element("legend", {}, label), boxes, notes(id, hint));
}

export function check(name, label, values) {
  const id = `field-${name}`;
  const box = element("input", { type: "checkbox", id, name, checked: values[name] === true });
  box.setAttribute("aria-describedby", `${id}-error`);
  return element("div", { className: "checks" }, element("label", {}, box, label), notes(id));
}
