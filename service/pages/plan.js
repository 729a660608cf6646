// What a request would come to, as POST /plans tells before any work.

import { element } from "./elements.js";
import { bytes, change, count } from "./words.js";

export function planPart(plan) {
  const widths = plan.widths.map(({ stack, unit, dense, slim }) => row(`${stack} ${unit} width`, count(dense), count(slim), ""));
  const { parameters, bytes: size } = plan;
  const heads = ["", "dense", "slim", "change"].map((name, index) => element("th", { scope: "col", className: index ? "number" : "" }, name));
  return [
    element("h2", {}, "Plan"),
    element("table", { className: "plan" }, element("thead", {}, element("tr", {}, heads)), element("tbody", {}, row("Parameters", count(parameters.dense), count(parameters.slim), change(parameters.dense, parameters.slim)), row("Weights", bytes(size.dense), bytes(size.slim), change(size.dense, size.slim)), widths)),
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
