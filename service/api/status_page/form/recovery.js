// The recovery, a short training after the cut: its fields in the form and its part of a request.

import { element } from "../elements.js";
import { choice, number } from "./controls.js";

const METHODS = [
  ["", "none: nothing is trained"],
  ["distillation", "distillation, towards the answers of the dense model"],
  ["lora", "lora, on the right answers of the rows"]
];
const STAGES = [
  ["answer", "the answers"],
  ["rationale,answer", "rationales, then the answers"]
];

/** The choice of the method, and the fields that a training has; `split` comes from `splitter`. */
export function recoveryFields(split, values) {
  return [
    choice("recovery.method", "Training of the slim model", METHODS, values),
    element(
      "div",
      { className: "recovery" },
      split(
        "steps, rank, learning rate and stages",
        number("recovery.seconds", "Seconds of training", values, {
          min: 1,
          placeholder: "300",
          hint: "at most; evaluations on held-out rows count, and the best step is kept"
        }),
        choice("recovery.stages", "Trained on", STAGES, values, "rationales have to be written: see Task"),
        number("recovery.epochs", "Epochs", values, { min: 1, placeholder: "4", hint: "most passes over the rows" }),
        number("recovery.steps", "Steps of training", values, { min: 1, hint: "empty: by the epochs" }),
        number("recovery.batch_size", "Rows of a step", values, { min: 1, placeholder: "16" }),
        number("recovery.rows", "Rows to train on", values, {
          min: 16,
          hint: "most calibration rows of each task, of which a fifth is held out; empty: all"
        }),
        number("recovery.rank", "Rank of the LoRA weights", values, { min: 1, placeholder: "8" }),
        number("recovery.learning_rate", "Learning rate", values, { min: 0, placeholder: "0.001" }),
        number("recovery.label_weight", "Weight of right answers", values, {
          min: 0,
          placeholder: "0",
          hint: "with distillation, beside the dense model’s answers"
        })
      )
    )
  ];
}

/** Show the fields of a training where one is chosen. */
export function showRecovery(form) {
  form.querySelector(".recovery").hidden = form.elements["recovery.method"].value === "";
}

/** The `recovery` of the request, from the fields of the form; undefined for none. */
export function composeRecovery(value, number) {
  if (value("recovery.method") === "") return undefined;
  const [first] = STAGES[0];
  const numbers = ["seconds", "epochs", "steps", "batch_size", "rows", "rank", "learning_rate", "label_weight"];
  return {
    method: value("recovery.method"),
    stages: value("recovery.stages") === first ? undefined : value("recovery.stages").split(","),
    ...Object.fromEntries(numbers.map((name) => [name, number(value(`recovery.${name}`))]))
  };
}

/** The fields of the form, from the `recovery` of a request without defaults. */
export function fieldsOfRecovery(recovery) {
  if (!recovery) return {};
  const given = { method: "distillation", ...recovery };
  return Object.fromEntries(Object.entries(given).map(([name, member]) => [`recovery.${name}`, member]));
}
