// The form element: its fields in groups, the expert fields of a group in a closed section.

import { element } from "../elements.js";
import { plain } from "../words.js";
import { has, isExpert } from "./carried.js";
import { SEVERAL } from "./request.js";
import { targetFields } from "./target.js";
import { ENDINGS } from "./upload.js";

export const OWN = ""; // the option of `task.preset` for a task without a preset

/** The form element with `values`; `split` comes from `splitter`. */
export function formElement({ presets, criteria, repairs, units, limits }, values, split) {
  const presetOptions = [
    [OWN, "a task of my own"],
    [SEVERAL, "several tasks at once"],
    ...presets.map(({ name }) => [name, name])
  ];
  return element(
    "form",
    { className: "request", noValidate: true },
    group(
      "Model",
      split(
        text("model.uri", "URI", values, {
          placeholder: "hf://HuggingFaceTB/SmolLM2-135M-Instruct",
          hint: "hf://, file://, s3://, gs:// or az:// directory with safetensors",
          required: true
        }),
        text("model.revision", "Revision", values, { placeholder: "main", hint: "branch, tag or commit on the hub" }),
        text("model.adapter_uri", "Adapter URI", values, { hint: "LoRA adapter that is merged first" })
      )
    ),
    group(
      "Task",
      split(
        choice("task.preset", "Task", presetOptions, values),
        element(
          "div",
          { className: "own-task" },
          choice(
            "task.kind",
            "Kind",
            [
              ["classification", "classification"],
              ["multi_label", "several labels"],
              ["token_classification", "a tag for each word"],
              ["regression", "regression"],
              ["generation", "generation"],
              ["embedding", "embeddings of texts"],
              ["language_modelling", "plain texts"]
            ],
            values
          ),
          choice(
            "prompt",
            "Prompt",
            [
              ["template", "a template of my own"],
              ["messages", "conversations, by the chat template of the model"]
            ],
            values
          ),
          element(
            "div",
            { "data-prompt": "template" },
            area("task.template", "Template", values, {
              placeholder: "Review: {text}\nSentiment:",
              hint: "columns of the rows in braces"
            })
          ),
          element(
            "div",
            { "data-prompt": "messages" },
            text("task.messages", "Column of the messages", { "task.messages": "messages", ...values }, {
              hint: "a list of messages with role and content; the assistant’s are the answers"
            })
          ),
          area("task.labels", "Labels", values, {
            placeholder: "positive = positive\nnegative = negative",
            hint: "one a line: label in the rows = answer word; for several labels and tags empty: the classes of the model"
          })
        ),
        element(
          "div",
          { className: "several-tasks" },
          area("tasks", "Tasks", values, {
            rows: 8,
            placeholder: '[{"preset": "sst2", "calibration": {"uri": "s3://…"}}, …]',
            hint: "JSON array of tasks that the slim model must still be able to do"
          })
        ),
        element(
          "div",
          { className: "rows" },
          text("task.calibration.uri", "Calibration rows", values, {
            placeholder: "s3://bucket/train.jsonl",
            hint: "JSON Lines, CSV or Parquet"
          }),
          area("task.calibration.rows", "Calibration rows, inline", values, {
            placeholder: '{"text": "…", "label": "positive"}',
            hint: "JSON Lines, in place of the URI"
          }),
          fileInput("task.calibration.uri", "Calibration rows from a file of this machine"),
          pair(
            text("task.calibration.limit", "Rows to use", values, { type: "number", min: 1, hint: "empty: all" }),
            text("task.evaluation.uri", "Evaluation rows", values, { hint: "empty: a fifth of the calibration rows" })
          ),
          fileInput("task.evaluation.uri", "Evaluation rows from a file of this machine")
        ),
        area("observe", "Tasks to evaluate without slimming for them", values, {
          placeholder: "imdb = s3://bucket/imdb.jsonl",
          hint: "one a line: preset = rows, or a task as JSON"
        })
      )
    ),
    group(
      "Size",
      split(
        element("div", { className: "target" }, targetFields({ text, choice }, values, limits)),
        checks("method.units", "Units to remove", units, values),
        choice("method.criterion", "Criterion", [["", "the default for the repair"], ...named(criteria)], values),
        choice("method.repair", "Repair", [["", "the default for the units"], ...named(repairs)], values),
        choice(
          "method.scope",
          "Rank units",
          [
            ["layer", "within each layer"],
            ["global", "across all layers"]
          ],
          values
        ),
        text("method.steps", "Steps", values, {
          type: "number",
          min: 1,
          max: 100,
          hint: "scores are computed again before each"
        }),
        choice(
          "output.layout",
          "Widths",
          [
            ["uniform", "the same in every layer"],
            ["per_layer", "one for each layer; needs a rank across all layers"]
          ],
          values
        ),
        text("output.round_to", "Widths are multiples of", values, {
          type: "number",
          min: 1,
          placeholder: "64",
          hint: "256 suits GGUF K-quants, 128 GPU kernels"
        }),
        check("method.controls", "Also evaluate models that are cut by random and by reversed scores", values)
      )
    ),
    group(
      "Job",
      split(
        text("tags", "Tags", values, { placeholder: "team:search, run:7" }),
        text("webhook.url", "Webhook URL", values, { hint: "https address that receives a message when the job ends" }),
        text("deadline_seconds", "Deadline in seconds", values, {
          type: "number",
          min: 10,
          placeholder: "3600",
          hint: "from the start of the job"
        })
      )
    ),
    element("div", { className: "actions" }, element("button", { type: "submit", className: "primary" }, "Submit job"))
  );
}

/** Splits the parts of a group: those of common fields, then a closed section with those of expert fields.
 *
 * The section is open where `carried`, the request that fills the form, has one of its fields.
 */
export function splitter(schemas, carried) {
  const isForExperts = (part) =>
    part.matches(".field, .checks") && isExpert(part.querySelector("[name]").name, schemas.JobRequest, schemas);
  const isCarried = (part) => has(carried, part.querySelector("[name]").name);
  return (...parts) => {
    const expert = parts.filter(isForExperts);
    const common = parts.filter((part) => !expert.includes(part));
    if (expert.length === 0) return common;
    return [
      ...common,
      element(
        "details",
        { className: "expert", open: expert.some(isCarried) },
        element("summary", {}, "Expert options"),
        element("div", { className: "pair" }, expert)
      )
    ];
  };
}

const pair = (...fields) => element("div", { className: "pair" }, fields);
const group = (name, ...fields) => element("fieldset", {}, element("legend", {}, name), fields);

function field(label, control, hint) {
  const id = `field-${control.name}`;
  control.id = id;
  control.setAttribute("aria-describedby", `${id}-hint ${id}-error`);
  return element(
    "div",
    { className: "field" },
    element("label", { htmlFor: id }, label),
    control,
    element("p", { className: "note", id: `${id}-hint` }, hint ?? ""),
    element("p", { className: "error", id: `${id}-error`, hidden: true })
  );
}

function text(name, label, values, { hint, ...options } = {}) {
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

function area(name, label, values, { hint, ...options } = {}) {
  return field(
    label,
    element("textarea", { name, value: values[name] ?? "", rows: 3, spellcheck: false, ...options }),
    hint
  );
}

function choice(name, label, options, values) {
  const made = options.map(([value, shown]) =>
    element("option", { value, selected: value === (values[name] ?? options[0][0]) }, shown)
  );
  return field(label, element("select", { name }, made));
}

/** An input whose file is uploaded; the data set is then named in the field `name`. */
const fileInput = (name, label) =>
  element(
    "label",
    { className: "field" },
    element("span", {}, label),
    element("input", { type: "file", accept: ENDINGS, "data-names": name })
  );

const named = (values) => values.map((value) => [value, plain(value)]);

function checks(name, label, options, values) {
  const chosen = (values[name] ?? "ffn").split(",");
  const boxes = options.map((value) =>
    element(
      "label",
      {},
      element("input", { type: "checkbox", name, value, checked: chosen.includes(value) }),
      plain(value)
    )
  );
  return element("fieldset", { className: "checks" }, element("legend", {}, label), boxes);
}

const check = (name, label, values) =>
  element(
    "div",
    { className: "checks" },
    element("label", {}, element("input", { type: "checkbox", name, checked: values[name] === true }), label)
  );
