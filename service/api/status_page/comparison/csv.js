// A comparison as a CSV file (RFC 4180).

const COLUMNS = [
  "job_id",
  "artifact",
  "units",
  "layout",
  "repair",
  "recovery",
  "ratio",
  "parameters",
  "bytes",
  "latency_ms",
  "examples"
];
const SIZES = ["parameters", "bytes", "latency_ms"];

/** One line for the dense model, which has no job, and one for each slim model. */
export function csvOf({ dense, models, metric }) {
  const heads = [...COLUMNS, "metric", "value", "low", "high", ...SIZES.map((size) => `frontier_${size}`)];
  const lines = [dense, ...models].map((model) => [
    ...COLUMNS.map((name) => model[name]),
    metric,
    model.metric.value,
    model.metric.low,
    model.metric.high,
    ...SIZES.map((size) => model.frontier.includes(size))
  ]);
  return [heads, ...lines].map((line) => `${line.map(cell).join(",")}\r\n`).join("");
}

function cell(value) {
  const text = Array.isArray(value) ? value.join(" ") : String(value ?? "");
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
