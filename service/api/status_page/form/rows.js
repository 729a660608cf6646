// Rows beside those of the task: general rows, and rows that a language model writes.

import { element } from "../elements.js";
import { choice, fileInput, number, pair, text } from "./controls.js";

// What a request says of general rows that are no plain texts.
const WORDING = ["kind", "preset", "template", "messages", "labels"];
const WRITTEN = [
  ["", "nothing"],
  ["rows", "further calibration rows"],
  ["rationales", "rationales of the right answers, to train on"],
  ["both", "further rows, and rationales of all"]
];

/** The fields of rows of what the model can do besides its task. */
export function generalFields(presets, values) {
  const own = values["task.general.own"] ? "rows as the copied request says" : "plain texts";
  const wordings = [["", own], ...presets.map(({ name }) => [name, `rows of ${name}`])];
  return element(
    "div",
    { className: "options", "data-of-one-task": "" },
    text("task.general.uri", "General rows", values, {
      hint: "rows of what the model can do besides the task; both models are measured on them"
    }),
    fileInput("task.general.uri", "General rows from a file of this machine"),
    pair(
      choice("task.general.preset", "General rows are", wordings, values),
      number("task.general.limit", "General rows to use", values, { min: 1, hint: "empty: all" }),
      number("method.general_weight", "Weight of general rows", values, {
        min: 0,
        max: 1,
        hint: "in scores and repair; 0: the task alone, 1: general rows alone"
      })
    )
  );
}

/** The fields of rows that a language model writes. */
export function synthesisFields(values) {
  const shown = { "task.synthesis.rows": "64", ...values };
  return element(
    "div",
    { className: "options", "data-of-one-task": "" },
    choice("task.synthesis", "Written by a language model", WRITTEN, shown),
    element(
      "div",
      { className: "pair", "data-written": "" },
      number("task.synthesis.rows", "Rows to write", shown, { min: 1 }),
      text("task.synthesis.model.uri", "Model that writes", shown, { hint: "a decoder; empty: the dense model" })
    )
  );
}

/** Show the fields of rows that the chosen task can have. */
export function showRows(form, several) {
  for (const options of form.querySelectorAll("[data-of-one-task]")) options.hidden = several;
  const written = form.elements["task.synthesis"].value;
  form.querySelector("[data-written]").hidden = written === "";
  form.elements["task.synthesis.rows"].closest(".field").hidden = written === "rationales";
}

/** The parts of the `task` of a request, from the fields of the form. */
export const composeRows = (value, number) => ({
  general: {
    uri: value("task.general.uri"),
    preset: value("task.general.preset"),
    limit: number(value("task.general.limit"))
  },
  synthesis: composeSynthesis(value, number)
});

function composeSynthesis(value, number) {
  const written = value("task.synthesis");
  if (written === "") return undefined;
  return {
    rows: written === "rationales" ? 0 : number(value("task.synthesis.rows")),
    rationales: written === "rows" ? undefined : true,
    model: value("task.synthesis.model.uri") ? { uri: value("task.synthesis.model.uri") } : undefined
  };
}

/** `task` without general rows that have no URI, and without the wording that the form has replaced by another one. */
export function withGeneralRows(task, carried) {
  const { general, ...others } = task;
  if (!general?.uri && !general?.rows) return others;
  if ((general.preset ?? null) === (carried.task?.general?.preset ?? null)) return task;
  const kept = Object.entries(general).filter(([name]) => name === "preset" || !WORDING.includes(name));
  return { ...task, general: Object.fromEntries(kept) };
}

/** The fields of the form, from the `task` of a request without defaults. */
export function fieldsOfRows({ general = {}, synthesis }) {
  const { rows, rationales, model } = synthesis ?? {};
  const { kind = "language_modelling", preset } = general;
  const written = rationales ? (rows === 0 ? "rationales" : "both") : "rows";
  return {
    "task.general.uri": general.uri,
    "task.general.preset": preset,
    "task.general.own": kind !== "language_modelling" || general.template ? true : undefined,
    "task.general.limit": general.limit,
    "task.synthesis": synthesis ? written : "",
    "task.synthesis.rows": rows || undefined,
    "task.synthesis.model.uri": model?.uri
  };
}
