// How small: the kinds of target, their fields and their part of a request.

import { element } from "./elements.js";

const KINDS = [
  ["ratio", "remove a share", { label: "Share to remove", options: { type: "number", min: 0.01, hint: "of the chosen units’ parameters" } }],
  ["keep_metric", "keep the task", { label: "Share of the dense metric to keep", options: { type: "number", min: 0, max: 1, placeholder: "0.98", hint: "by the lower bound of a 95 % interval" } }],
  ["parameters", "fit a number of parameters", { label: "Parameters at most", options: { type: "number", min: 1 } }],
  ["bytes", "fit a size", { label: "Bytes of the weights at most", options: { type: "number", min: 1 } }],
  ["latency_ms", "fit a time", { label: "Milliseconds at most", options: { type: "number", min: 0, hint: "of a pass of 1 × 64 tokens on the worker’s device" } }],
  ["sweep", "see several shares", { label: "Shares to remove", options: { placeholder: "0.1, 0.2, 0.3, 0.4, 0.5", hint: "the last one’s checkpoint is stored" } }],
];
const BOUNDS = ["parameters", "bytes", "latency_ms"];

/** The choice of a kind, and a field for each of them. */
export function targetFields({ text, choice }, values, limits) {
  const asked = { "target.ratio": "0.3", ...values };
  const fields = KINDS.map(([kind, , { label, options }]) =>
    element("div", { "data-target": kind }, text(`target.${kind}`, label, asked, kind === "ratio" ? { ...options, max: limits.max_ratio } : options)));
  return [choice("target", "Target", KINDS.map(([kind, shown]) => [kind, shown]), values), ...fields];
}

/** Show the fields that the chosen kind has. */
export function showTarget(form) {
  const kind = form.elements.target.value;
  for (const field of form.querySelectorAll("[data-target]")) {
    field.hidden = !(field.dataset.target === kind || (field.dataset.target === "keep_metric" && BOUNDS.includes(kind)));
  }
}

/** The request's `target`; what its fields do not show comes from `carried`, where that is of the same kind. */
export function composeTarget(value, number, carried = {}) {
  const kind = value("target");
  if (kind === "sweep") {
    const sweep = value("target.sweep").split(",").map(number).filter((ratio) => ratio !== undefined);
    return { sweep, artifacts: (carried.artifacts ?? []).filter((ratio) => sweep.includes(ratio)) };
  }
  const asked = number(value(`target.${kind}`));
  const whole = kind === "latency_ms" && carried.latency_ms ? { ...carried.latency_ms, value: asked } : asked;
  return BOUNDS.includes(kind) ? { [kind]: whole, keep_metric: number(value("target.keep_metric")) } : { [kind]: whole };
}

/** The fields of a request's `target`. */
export function fieldsOfTarget(target) {
  const given = KINDS.map(([kind]) => kind).filter((kind) => (target[kind] ?? null) !== null);
  return {
    target: given.find((kind) => kind !== "keep_metric") ?? given[0],
    ...Object.fromEntries(given.map((kind) => [`target.${kind}`, kind === "latency_ms" ? target[kind].value : target[kind]])),
  };
}
