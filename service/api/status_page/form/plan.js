// The plan of a request, as POST /plans returns it.

import { element } from "../elements.js";
import { change, count, duration, size } from "../formatting.js";
import { plain } from "../words.js";

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
    element("ul", { className: "runtimes" }, plan.runtimes.map(runtime))
  ];
}

/** What the weights of a quantised model become first. */
function dequantised({ format, dtype, bytes }) {
  const text = `The weights are quantised (${format}). They become ${dtype} first (${size(bytes)}), as those of the slim model are.`;
  return element("p", { className: "note" }, text);
}

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
