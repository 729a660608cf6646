// The plan of a request, as POST /plans returns it.

import { element } from "../elements.js";
import { change, count, duration, size } from "../formatting.js";
import { plain } from "../words.js";

const GIB = 2 ** 30;

export function planPart(plan) {
  const { parameters, bytes: weights, cache_bytes_per_token: cache } = plan;
  const rows = [
    projected("Parameters", count, parameters),
    projected("Weights", size, weights),
    cache && projected("Cache per token", size, cache),
    ...plan.widths.map(({ stack, unit, dense, slim }) =>
      row(`${stack} ${plain(unit)}`, count(dense), count(slim), change(dense, slim))
    )
  ];
  const heads = ["", "dense", "slim", "change"].map((name, index) =>
    element("th", { scope: "col", className: index ? "number" : "" }, name)
  );
  return [
    element("h2", {}, "Plan"),
    element(
      "table",
      { className: "plan" },
      element("thead", {}, element("tr", {}, heads)),
      element(
        "tbody",
        {},
        rows.filter((made) => made)
      )
    ),
    plan.exact
      ? null
      : element(
          "p",
          { className: "note" },
          plan.ratio === null
            ? "The size is known after measurements only."
            : "The widths follow from scores or measurements; these figures are for the share to remove, or for the largest model that fits."
        ),
    plan.dequantised && dequantised(plan.dequantised),
    expected(plan),
    element("ul", { className: "runtimes" }, plan.runtimes.map(runtime)),
    plan.precisions.length > 0 && [
      element("h3", {}, "Quantised copies"),
      element("ul", { className: "runtimes precisions" }, plan.precisions.map(precision))
    ],
    memory(plan.memory)
  ];
}

/** What the weights of a quantised model become first. */
function dequantised({ format, dtype, bytes }) {
  const text = `The weights are quantised (${format}). They become ${dtype} first (${size(bytes)}), as those of the slim model are.`;
  return element("p", { className: "note" }, text);
}

/** The memory of the job, and the passes that it takes on devices of several sizes. */
function memory({ weights, cpu_weights: cpu, streamed_on_cpu: streamed, devices }) {
  const heads = ["Device", "scoring", "repair", "peak"].map((name, index) =>
    element("th", { scope: "col", className: index ? "number" : "" }, name)
  );
  const larger = streamed ? ", which are read from files where they are more than half of what is free" : "";
  return element(
    "details",
    { className: "panel memory" },
    element("summary", {}, "Memory"),
    element(
      "table",
      { className: "plan" },
      element("thead", {}, element("tr", {}, heads)),
      element("tbody", {}, devices.map(device))
    ),
    element(
      "p",
      { className: "note" },
      `Passes over the calibration rows, and the most memory that they take, within a factor of 2. ` +
        `The weights take ${size(weights)}, on a CPU ${size(cpu)}${larger}.`
    )
  );
}

function device({ device: bytes, holds_weights: fits, scoring_passes: scoring, repair_passes: repair, peak }) {
  const name = `${bytes / GIB} GiB`;
  return fits ? row(name, passes(scoring), passes(repair), size(peak)) : row(name, "too small", "", "");
}

const passes = (number) => (number === null ? "" : `${number} ${number === 1 ? "pass" : "passes"}`);

/** The estimated time, and whether the scores of an earlier job are used. */
function expected({ time, scores_cached: cached }) {
  const parts = [];
  if (time)
    parts.push(
      `About ${duration(time.seconds)}, estimated from ${time.runs} past ${time.runs === 1 ? "job" : "jobs"}.`
    );
  if (cached !== null)
    parts.push(cached ? "The scores of an earlier job are used." : "The scores have to be computed.");
  return parts.length ? element("p", { className: "note" }, parts.join(" ")) : null;
}

function projected(name, shown, { dense, slim }) {
  return slim === null
    ? row(name, shown(dense), "not known", "")
    : row(name, shown(dense), shown(slim), change(dense, slim));
}

function row(name, ...figures) {
  return element(
    "tr",
    {},
    element("th", { scope: "row" }, name),
    figures.map((figure) => element("td", { className: "number" }, figure))
  );
}

function precision({ precision: name, possible, group_size: group, reason }) {
  const note = possible ? (group ? `possible, in groups of ${group} weights` : "possible") : `not possible · ${reason}`;
  return element(
    "li",
    { "data-loads": String(possible) },
    element("strong", {}, name),
    element("span", { className: "note" }, ` ${note}`)
  );
}

function runtime({ name, loads, reason, quantisations }) {
  const notes = [loads ? quantisations.join(", ") : "", reason ?? ""].filter((note) => note);
  return element(
    "li",
    { "data-loads": String(loads) },
    element("strong", {}, name),
    element(
      "span",
      { className: "note" },
      ` ${loads ? "loads it" : "does not load it"}`,
      notes.length ? ` · ${notes.join(" · ")}` : ""
    )
  );
}
