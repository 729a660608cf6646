// The form element: its fields in groups, the expert fields of a group in a closed section.

import { element } from "../elements.js";
import { has, isExpert } from "./carried.js";
import { area, check, checks, choice, fileInput, group, named, number, pair, text } from "./controls.js";
import { outputFields } from "./output.js";
import { recoveryFields } from "./recovery.js";
import { SEVERAL } from "./request.js";
import { generalFields, synthesisFields } from "./rows.js";
import { targetFields } from "./target.js";

export const OWN = ""; // the option of `task.preset` for a task without a preset

/** The form element with `values`; `schemas` are those of the contract, and `split` comes from `splitter`. */
export function formElement({ presets, criteria, repairs, units, limits }, schemas, values, split) {
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
        "revision and adapter",
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
        "general rows, written rows, observed tasks",
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
            number("task.calibration.limit", "Rows to use", values, { min: 1, hint: "empty: all" }),
            text("task.evaluation.uri", "Evaluation rows", values, { hint: "empty: a fifth of the calibration rows" })
          ),
          fileInput("task.evaluation.uri", "Evaluation rows from a file of this machine")
        ),
        generalFields(presets, values),
        synthesisFields(values),
        area("observe", "Tasks to evaluate without slimming for them", values, {
          placeholder: "imdb = s3://bucket/imdb.jsonl",
          hint: "one a line: preset = rows, or a task as JSON"
        })
      )
    ),
    group(
      "Size",
      split(
        "criterion, repair, rank, steps and controls",
        element("div", { className: "target" }, targetFields(values, limits)),
        checks("method.units", "Units to remove", units, values, { byDefault: "ffn" }),
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
        number("method.steps", "Steps", values, {
          min: 1,
          max: 100,
          hint: "scores are computed again before each"
        }),
        check("method.controls", "Also evaluate models that are cut by random and by reversed scores", values)
      )
    ),
    group("Recovery", recoveryFields(split, values)),
    group("Files", split("formats, quantised copies and widths", ...outputFields(schemas, values))),
    group(
      "Job",
      split(
        "shards and deadline",
        text("tags", "Tags", values, { placeholder: "team:search, run:7" }),
        text("webhook.url", "Webhook URL", values, { hint: "https address that receives a message when the job ends" }),
        number("method.shards", "Shards", values, {
          min: 1,
          max: 64,
          hint: "jobs of the queue that the rows are divided among"
        }),
        number("deadline_seconds", "Deadline in seconds", values, {
          min: 10,
          placeholder: "3600",
          hint: "from the start of the job"
        })
      )
    ),
    element("div", { className: "actions" }, element("button", { type: "submit", className: "primary" }, "Submit job"))
  );
}

/** Splits the parts of a group: those of common fields, then a closed section, about `title`, with those of expert fields.
 *
 * The section is open where `carried`, the request that fills the form, has one of its fields.
 */
export function splitter(schemas, carried) {
  const controls = (part) => [...part.querySelectorAll("[name]")];
  const isForExperts = (part) =>
    part.matches(".field, .checks, .options") && isExpert(controls(part)[0].name, schemas.JobRequest, schemas);
  const isCarried = (part) => controls(part).some(({ name }) => has(carried, name));
  return (title, ...parts) => {
    const expert = parts.filter(isForExperts);
    const common = parts.filter((part) => !expert.includes(part));
    return [
      ...common,
      element(
        "details",
        { className: "expert", open: expert.some(isCarried) },
        element("summary", {}, `Expert options: ${title}`),
        element("div", { className: "pair" }, expert)
      )
    ];
  };
}
