// Names and phrases of a job: its model, task, target and progress.

import { count, duration, percent, size } from "./formatting.js";

/** Seconds between two RFC 3339 times; until now where the second is absent. */
export const between = (start, end) => ((end ? Date.parse(end) : Date.now()) - Date.parse(start)) / 1000;

/** The age of a time, such as "3 min ago"; its date after a day. */
export function ago(time) {
  const seconds = Math.max(0, between(time));
  if (seconds < 60) return "just now";
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return new Date(time).toLocaleDateString(undefined, { year: "numeric", month: "short", day: "numeric" });
}

/** "evaluate_dense" -> "evaluate dense" */
export const plain = (name) => name.replaceAll("_", " ");

/** The name of the model: the last part of its URI. */
export const modelName = (request) => request.model.uri.replace(/\/+$/, "").split("/").pop();

/** The titles of the tasks of a request. */
export const taskName = ({ task, tasks }) => (task ? titleOf(task) : tasks.map(titleOf).join(" + "));

/** The name of the adapter; empty where there is none. */
export const adapterName = (request) => (request.model.adapter_uri ?? "").replace(/\/+$/, "").split("/").pop();

/** A target as a phrase. */
export function targetWords(target) {
  const weights = target.general_weights ? `, with the general weights ${target.general_weights.join(", ")}` : "";
  if (target.ratio) return `remove ${percent(target.ratio)}${weights}`;
  if (target.sweep)
    return `models with ${[...target.sweep]
      .sort((a, b) => a - b)
      .map((ratio) => percent(ratio))
      .join(", ")} removed`;
  const { parameters, bytes: most, latency_ms: bound, keep_metric: floor } = target;
  return [
    parameters && `at most ${count(parameters)} parameters`,
    most && `weights of at most ${size(most)}`,
    bound && `at most ${bound.value} ms for ${bound.batch} × ${bound.tokens} tokens`,
    floor && `the smallest that keeps ${percent(floor)} of the dense metric`
  ]
    .filter(Boolean)
    .join(", and ");
}

const titleOf = (task) => task.name ?? task.preset ?? `own ${task.kind ?? "classification"} task`;

/** "52 of 128 examples · 12 s left" */
export function progressNote(job) {
  const { done, total, unit, eta_seconds: left } = job.progress;
  const parts = [];
  if (total)
    parts.push(unit === "bytes" ? `${size(done)} of ${size(total)}` : `${done} of ${total} ${unit ?? ""}`.trim());
  if (left !== null && left !== undefined) parts.push(`${duration(left)} left`);
  return parts.join(" · ");
}

export const isFinished = (job) => ["succeeded", "failed", "cancelled"].includes(job.status);

const NAMES = {
  accuracy: "Accuracy",
  balanced_accuracy: "Balanced accuracy",
  macro_f1: "Macro F1 score",
  micro_f1: "Micro F1 score",
  matthews: "Matthews correlation",
  entity_f1: "F1 score of entities",
  tag_accuracy: "Accuracy of tags",
  pearson: "Pearson correlation",
  spearman: "Spearman correlation",
  entity_f1: "F1 score of entities",
  tag_accuracy: "Accuracy of tags",
  exact_match: "Exact match",
  token_f1: "F1 score of words",
  rouge_l: "ROUGE-L score",
  chrf: "ChrF score",
  token_probability: "Probability of a token",
  cosine_similarity: "Cosine similarity to the dense model’s embeddings",
  recall_at_10: "Recall at 10"
};
// Of rows without labels.
const NAMES_OF_AGREEMENT = {
  accuracy: "Agreement with the dense model",
  pearson: "Pearson correlation with the dense model’s outputs",
  spearman: "Spearman correlation with the dense model’s outputs",
  tag_accuracy: "Tags equal to the dense model’s",
  exact_match: "Texts equal to the dense model’s",
  token_probability: "Probability of a token of the dense model’s text",
  cosine_similarity: "Cosine similarity to the dense model’s embeddings"
};

/** The name of the metric; for rows without labels it is agreement with the dense model. */
export function metricName({ metric, judged_by: judge }) {
  if (metric === null) return "Mean of the tasks’ metrics";
  if (judge === "labels") return NAMES[metric];
  return NAMES_OF_AGREEMENT[metric] ?? `${NAMES[metric]} with the dense model’s answers as right ones`;
}
