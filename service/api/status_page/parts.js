// Elements that the list and the page of a job share: status, progress and result.

import { element } from "./elements.js";
import { change, count, interval, milliseconds, percent, size, span } from "./formatting.js";
import { isFinished, metricName, plain, progressNote } from "./words.js";

/** The status as a mark and a word. Marks differ in shape too, for readers who cannot tell the colours apart. */
export const statusMark = (job) => element("span", { className: "status", "data-status": job.status }, job.status);

/** The progress bar of a job, with its stage and the remaining time. */
export function progressBar(job) {
  const stage = job.stage && job.status !== "queued" ? plain(job.stage) : job.status;
  return element(
    "div",
    { className: "progress" },
    element(
      "div",
      { className: "line" },
      element("span", {}, stage),
      element("span", { className: "number" }, percent(job.progress.fraction, 0))
    ),
    element("progress", { max: 1, value: job.progress.fraction, "aria-label": `Progress of the job, ${stage}` }),
    element("div", { className: "note" }, progressNote(job))
  );
}

/** The result or error of an ended job, in one or two lines. */
export function outcome(job) {
  if (job.status === "failed")
    return element(
      "div",
      { className: "outcome" },
      element("code", {}, job.error.code),
      element("div", { className: "note" }, job.error.message)
    );
  if (job.status === "cancelled") return element("div", { className: "note" }, "Cancelled; nothing was stored.");
  const { parameters, metrics } = job.result;
  return element(
    "div",
    { className: "outcome" },
    element("span", {}, `${change(parameters.dense, parameters.slim)} parameters`),
    element("div", { className: "note" }, metricNote(metrics))
  );
}

/** The progress of a job, or its result or error once it has ended. */
export function progressOrOutcome(job) {
  if (isFinished(job)) return outcome(job);
  if (job.status === "queued" && job.attempt === 0) return element("div", { className: "note" }, "Waits for a worker.");
  return progressBar(job);
}

function metricNote({ dense, slim }) {
  return `${metricName(slim)} ${percent(dense.value.value)} → ${percent(slim.value.value)}`;
}

/** The figures of the dense and the slim model, one tile each. */
export function tiles(result) {
  const { metrics, parameters, bytes: weights, latency_ms: latency } = result;
  const [before, now] = [metrics.dense.value, metrics.slim.value];
  const note = `95 % interval ${span(now)}, ${metrics.slim.examples} rows`;
  const place = `batch ${latency.batch}, ${latency.tokens} tokens, ${latency.device}`;
  return element(
    "dl",
    { className: "tiles" },
    tile(metricName(metrics.slim), percent(before.value), percent(now.value), note),
    tile("Parameters", count(parameters.dense), count(parameters.slim), change(parameters.dense, parameters.slim)),
    tile("Weights", size(weights.dense), size(weights.slim), change(weights.dense, weights.slim)),
    tile(
      "Latency",
      milliseconds(latency.dense),
      milliseconds(latency.slim),
      `${change(latency.dense, latency.slim)}, ${place}`
    ),
    result.kept_metric && keptTile(result.kept_metric),
    metrics.general && otherTile("General rows", metrics.general),
    ...result.quantised.map((copy) => quantisedTile(copy, weights.slim)),
    ...Object.entries(metrics.observed ?? {}).map(([name, pair]) => otherTile(`Observed task: ${name}`, pair))
  );
}

/** The metric of both models in a precision, and the size of the slim one against that of its weights as they are. */
function quantisedTile({ precision, metrics: { dense, slim }, bytes }, whole) {
  return tile(
    `${metricName(slim)} in ${precision}`,
    percent(dense.value.value),
    percent(slim.value.value),
    `95 % interval ${span(slim.value)}, ${size(bytes.slim)} (${change(whole, bytes.slim)})`
  );
}

/** The share of the metric that a search has kept, on rows held out from it. */
function keptTile({ floor, reported, reported_examples: rows }) {
  return tile(
    "Kept of the dense metric",
    `${percent(floor)} required`,
    percent(reported.value),
    `95 % interval ${span(reported)}, ${rows} rows held out from the search`
  );
}

/** The models that a failed search has measured. */
export function curveTable(points) {
  const heads = ["Removed", "Parameters", "Metric", "Share of the dense metric", "Latency"].map((name) =>
    element("th", { scope: "col", className: "number" }, name)
  );
  const rows = points.map(({ ratio, parameters, metric, share, latency_ms: took }) =>
    element(
      "tr",
      {},
      [
        percent(ratio),
        count(parameters),
        metric && percent(metric.value),
        share && interval(share),
        took && milliseconds(took)
      ].map((figure) => element("td", { className: "number" }, figure))
    )
  );
  return element(
    "table",
    { className: "curve" },
    element("caption", { className: "note" }, "Measured models"),
    element("thead", {}, element("tr", {}, heads)),
    element("tbody", {}, rows)
  );
}

/** The metric of rows that the model was not slimmed for. */
function otherTile(name, { dense, slim }) {
  const [before, now] = [dense.value, slim.value];
  return tile(
    name,
    percent(before.value),
    percent(now.value),
    `95 % interval ${span(now)}, ${slim.examples} rows`
  );
}

function tile(name, before, now, note) {
  return element(
    "div",
    {},
    element("dt", {}, name),
    element(
      "dd",
      {},
      element("span", { className: "before" }, before, " → "),
      element("strong", {}, now),
      element("span", { className: "note" }, note)
    )
  );
}
