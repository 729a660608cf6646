// What a request would come to, as POST /plans tells before any work.

import { element } from "./elements.js";
import { bytes, change, count, plain } from "./words.js";

export function planPart(plan) {
  const { parameters, bytes: size, cache_bytes_per_token: cache } = plan;
  const rows = [
    row("Parameters", count(parameters.dense), count(parameters.slim), change(parameters.dense, parameters.slim)),
    row("Weights", bytes(size.dense), bytes(size.slim), change(size.dense, size.slim)),
    cache && row("Cache per token", bytes(cache.dense), bytes(cache.slim), change(cache.dense, cache.slim)),
    ...plan.widths.map(({ stack, unit, dense, slim }) => row(`${stack} ${plain(unit)}`, count(dense), count(slim), change(dense, slim))),
  ];
  const heads = ["", "dense", "slim", "change"].map((name, index) => element("th", { scope: "col", className: index ? "number" : "" }, name));
  return [
    element("h2", {}, "Plan"),
    element("table", { className: "plan" }, element("thead", {}, element("tr", {}, heads)), element("tbody", {}, rows.filter((made) => made))),
    plan.exact ? null : element("p", { className: "note" }, "Scores decide the widths; these figures follow from the share to remove."),
    element("ul", { className: "runtimes" }, plan.runtimes.map(runtime)),
  ];
}

function row(name, ...figures) {
  return element("tr", {}, element("th", { scope: "row" }, name), figures.map((figure) => element("td", { className: "number" }, figure)));
}

function runtime({ name, loads, reason, quantisations }) {
  const notes = [loads ? quantisations.join(", ") : "", reason ?? ""].filter((note) => note);
  return element("li", { "data-loads": String(loads) }, element("strong", {}, name), element("span", { className: "note" }, ` ${loads ? "loads it" : "does not load it"}`, notes.length ? ` · ${notes.join(" · ")}` : ""));
}
