// The kinds of target: their fields in the form and their part of a request.

import { element } from "../elements.js";
import { choice, text } from "./controls.js";

const KINDS = [
  [
    "ratio",
    "remove a share of the units",
    { label: "Share to remove", options: { type: "number", min: 0.01, hint: "of the chosen units’ parameters" } }
  ],
  [
    "keep_metric",
    "keep a share of the metric",
    {
      label: "Share of the dense metric to keep",
      options: { type: "number", min: 0, max: 1, placeholder: "0.98", hint: "by the lower bound of a 95 % interval" }
    }
  ],
  [
    "parameters",
    "maximum number of parameters",
    { label: "Maximum number of parameters", options: { type: "number", min: 1 } }
  ],
  ["bytes", "maximum size", { label: "Maximum bytes of the weights", options: { type: "number", min: 1 } }],
  [
    "latency_ms",
    "maximum latency",
    {
      label: "Maximum milliseconds",
      options: { type: "number", min: 0, hint: "of a forward pass on the worker’s device" }
    }
  ],
  [
    "sweep",
    "compare several shares",
    {
      label: "Shares to remove",
      options: { placeholder: "0.1, 0.2, 0.3, 0.4, 0.5", hint: "a model is evaluated at each" }
    }
  ]
];
// Further fields of a kind.
const MORE = {
  ratio: [
    [
      "general_weights",
      "General weights to compare",
      { placeholder: "0, 0.1, 0.5", hint: "with general rows: a model is evaluated with each" }
    ]
  ],
  latency_ms: [
    ["batch", "Rows of the pass", { type: "number", min: 1, max: 256, placeholder: "1" }],
    ["tokens", "Tokens of each row", { type: "number", min: 1, max: 8192, placeholder: "64" }]
  ],
  sweep: [["artifacts", "Shares whose checkpoints are stored", { placeholder: "0.2, 0.4", hint: "empty: the highest" }]]
};
const BOUNDS = ["parameters", "bytes", "latency_ms"];

/** The choice of the kind, and the fields of every kind. */
export function targetFields(values, limits) {
  const shown = { "target.ratio": "0.3", ...values };
  const fields = KINDS.map(([kind, , { label, options }]) =>
    element(
      "div",
      { "data-target": kind },
      text(`target.${kind}`, label, shown, kind === "ratio" ? { ...options, max: limits.max_ratio } : options),
      (MORE[kind] ?? []).map(([name, title, more]) => text(moreName(kind, name), title, shown, more))
    )
  );
  return [
    choice(
      "target",
      "Target",
      KINDS.map(([kind, shown]) => [kind, shown]),
      values
    ),
    ...fields
  ];
}

/** The path of a further field in the request: `artifacts` is a field of the target, the others are fields of the bound. */
const moreName = (kind, name) => (kind === "latency_ms" ? `target.latency_ms.${name}` : `target.${name}`);

/** Show the fields of the chosen kind and hide the others. */
export function showTarget(form) {
  const kind = form.elements.target.value;
  for (const field of form.querySelectorAll("[data-target]")) {
    field.hidden = !(
      field.dataset.target === kind ||
      (field.dataset.target === "keep_metric" && BOUNDS.includes(kind))
    );
  }
}

/** The `target` of the request, from the fields of the form. */
export function composeTarget(value, number) {
  const kind = value("target");
  const ratios = (name) =>
    value(name)
      .split(",")
      .map((part) => number(part.trim()))
      .filter((ratio) => ratio !== undefined);
  if (kind === "sweep") {
    const artifacts = ratios("target.artifacts");
    return { sweep: ratios("target.sweep"), artifacts: artifacts.length ? artifacts : undefined };
  }
  if (kind === "ratio") {
    const weights = ratios("target.general_weights");
    return { ratio: number(value("target.ratio")), general_weights: weights.length ? weights : undefined };
  }
  const bound = number(value(`target.${kind}`));
  const [batch, tokens] = ["batch", "tokens"].map((name) => number(value(`target.latency_ms.${name}`)));
  const whole = kind === "latency_ms" && (batch ?? tokens) ? { value: bound, batch, tokens } : bound;
  return BOUNDS.includes(kind)
    ? { [kind]: whole, keep_metric: number(value("target.keep_metric")) }
    : { [kind]: whole };
}

/** The fields of the form, from the `target` of a request. */
export function fieldsOfTarget(target) {
  const given = KINDS.map(([kind]) => kind).filter((kind) => (target[kind] ?? null) !== null);
  const { batch, tokens } = target.latency_ms ?? {};
  return {
    "target.latency_ms.batch": batch,
    "target.latency_ms.tokens": tokens,
    "target.artifacts": target.artifacts,
    "target.general_weights": target.general_weights,
    target: given.find((kind) => kind !== "keep_metric") ?? given[0],
    ...Object.fromEntries(
      given.map((kind) => [`target.${kind}`, kind === "latency_ms" ? target[kind].value : target[kind]])
    )
  };
}
