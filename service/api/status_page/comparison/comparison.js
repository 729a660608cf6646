// The page that compares jobs of one model and task: a table, a plot and a CSV file.

import { read } from "../api.js";
import { element, fill } from "../elements.js";
import { change, count, interval, milliseconds, percent, size } from "../formatting.js";
import { metricName, modelName, plain } from "../words.js";
import { csvOf } from "./csv.js";
import { plotOf } from "./plot.js";

/** Name of a size in the API -> its name on the page, and a figure as text. */
const SIZES = {
  parameters: { name: "Parameters", text: (number) => count(Math.round(number)) },
  bytes: { name: "Weights", text: (number) => size(Math.round(number)) },
  latency_ms: { name: "Latency", text: milliseconds }
};

/** Show the jobs that the address names in `main`, against the size that it names. */
export async function showComparison(main, parameters, signal) {
  document.title = "Compare · Taskslim";
  const compared = await read(`compare?${new URLSearchParams({ jobs: parameters.get("jobs") ?? "" })}`, { signal });
  const by = parameters.get("by") in SIZES ? parameters.get("by") : "parameters";
  fill(
    main,
    element("p", { className: "trail" }, element("a", { href: "#/" }, "Jobs"), " / compare"),
    heading(compared),
    element("p", { className: "note" }, ...conditions(compared)),
    sizeChoice(parameters, by),
    plotPart(compared, by),
    tablePart(compared, by)
  );
}

function heading(compared) {
  const save = element("button", { type: "button", onclick: () => download(csvOf(compared), "comparison.csv") });
  return element(
    "div",
    { className: "title" },
    element("h1", {}, modelName(compared), element("small", {}, ` for ${compared.task}`)),
    element("div", { className: "actions" }, fill(save, "Export as CSV"))
  );
}

function conditions({ dense, latency }) {
  const rows = `${dense.examples} evaluation rows, 95 % intervals. `;
  if (!latency) return [rows, "The latencies were measured on different input or devices and have no frontier."];
  return [rows, `Latency: ${latency.batch} × ${latency.tokens} tokens on ${latency.device}.`];
}

function sizeChoice(parameters, by) {
  const options = Object.entries(SIZES).map(([value, { name }]) =>
    element("option", { value, selected: value === by }, name)
  );
  const choose = ({ target }) => {
    const wanted = new URLSearchParams({ jobs: parameters.get("jobs"), by: target.value });
    location.hash = `#/compare?${decodeURIComponent(wanted)}`;
  };
  const choice = element("select", { name: "by", onchange: choose }, options);
  return element("form", { className: "filters against" }, element("label", {}, "Metric against", choice));
}

function plotPart(compared, by) {
  const caption = "Filled: on the frontier, where no model that is at most as large has a higher metric.";
  return element(
    "figure",
    { className: "plot" },
    plotOf(compared, by, metricName(compared), SIZES[by]),
    element("figcaption", { className: "note" }, caption)
  );
}

function tablePart(compared, by) {
  const heads = ["", "Job", "Removed", "Parameters", "Weights", "Latency", metricName(compared)].map((name) =>
    element("th", { scope: "col" }, name)
  );
  const rows = [rowOf("D", "dense model", compared.dense, compared.dense, by)];
  for (const [index, model] of compared.models.entries())
    rows.push(rowOf(String(index + 1), jobOf(model), model, compared.dense, by));
  return element(
    "section",
    { className: "compared", "aria-label": "Models" },
    element(
      "table",
      {},
      element("caption", { className: "hidden" }, "Compared models"),
      element("thead", {}, element("tr", {}, heads)),
      element("tbody", {}, rows)
    )
  );
}

function jobOf({ job_id: id, artifact, units, layout, repair, recovery, tags }) {
  const words = [units.join(", "), plain(layout), repair === "none" ? "no repair" : plain(repair)];
  if (recovery) words.push(`recovered by ${recovery}`);
  if (artifact !== "model") words.push(artifact ?? "not stored");
  const shown = Object.entries(tags).map(([key, value]) => element("span", { className: "tag" }, `${key}:${value}`));
  const name = element("a", { href: `#/jobs/${id}` }, element("code", {}, id));
  return [name, element("div", { className: "note" }, words.join(" · "), " ", ...shown)];
}

function rowOf(mark, name, model, dense, by) {
  const isFrontier = model.frontier.includes(by);
  const figures = Object.entries(SIZES).map(([key, { text }]) => figure(model[key], dense[key], text));
  return element(
    "tr",
    { "data-frontier": String(isFrontier) },
    element("td", { title: isFrontier ? "on the frontier" : null }, mark, isFrontier ? " ●" : ""),
    element("td", {}, name),
    element("td", {}, model.ratio ? percent(model.ratio) : ""),
    ...figures,
    element("td", {}, interval(model.metric))
  );
}

function figure(value, whole, text) {
  if (value === null) return element("td", {}, "not measured");
  const less = value === whole ? "" : change(whole, value);
  return element("td", {}, text(value), " ", element("span", { className: "note" }, less));
}

/** Save a text as a file of the reader. */
function download(text, name) {
  const url = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
