// The plot of a comparison: a size against the metric, with intervals and the frontier, as SVG.

import { percent } from "../formatting.js";

const NAMESPACE = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT] = [720, 340];
const [LEFT, TOP, RIGHT, BOTTOM] = [64, 20, 24, 52];
const TICKS = 4;
const CAP = 4; // half the length of the ends of an interval

/** The models that were measured by the size `by`, each named as in the table. */
export function plotOf(compared, by, metric, { name, text }) {
  const models = [["D", compared.dense], ...compared.models.map((model, index) => [String(index + 1), model])]
    .filter(([, model]) => model[by] !== null)
    .map(([mark, model]) => ({ mark, size: model[by], ...model.metric, isFrontier: model.frontier.includes(by) }));
  const scale = scaleOf(models);
  const label = `${metric} against ${name.toLowerCase()} of ${models.length} models, with 95 % intervals`;
  return svg(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label },
    ...axes(scale, text),
    svg("text", { x: LEFT, y: 12 }, metric),
    svg("text", { x: WIDTH - RIGHT, y: HEIGHT - 8, "text-anchor": "end" }, name),
    svg("polyline", { class: "frontier", points: frontier(models, scale) }),
    ...models.map((model) => pointOf(model, scale, text))
  );
}

/** Sizes from 0 to the largest, and the metric from the lowest to the highest end of an interval. */
function scaleOf(models) {
  const most = Math.max(...models.map(({ size }) => size));
  const low = Math.floor(Math.min(...models.map((model) => model.low)) * 20) / 20;
  const high = Math.ceil(Math.max(...models.map((model) => model.high)) * 20) / 20;
  return {
    most,
    low,
    high,
    x: (size) => LEFT + ((WIDTH - LEFT - RIGHT) * size) / most,
    y: (share) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - (share - low) / (high - low || 1))
  };
}

function axes({ most, low, high, x, y }, text) {
  const parts = Array.from({ length: TICKS + 1 }, (_, index) => index / TICKS);
  const lines = parts.flatMap((part) => {
    const [size, share] = [most * part, low + (high - low) * part];
    return [
      svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(share), y2: y(share) }),
      svg("text", { x: LEFT - 8, y: y(share) + 4, "text-anchor": "end" }, percent(share)),
      svg("text", { x: x(size), y: HEIGHT - BOTTOM + 18, "text-anchor": "middle" }, text(size))
    ];
  });
  return [...lines, svg("line", { class: "axis", x1: LEFT, x2: LEFT, y1: TOP, y2: HEIGHT - BOTTOM })];
}

/** The points of a line through the frontier, by size. */
function frontier(models, { x, y }) {
  const ordered = models.filter(({ isFrontier }) => isFrontier).sort((one, other) => one.size - other.size);
  return ordered.map(({ size, value }) => `${x(size)},${y(value)}`).join(" ");
}

function pointOf({ mark, size, value, low, high, isFrontier }, { x, y }, text) {
  const [left, right] = [x(size) - CAP, x(size) + CAP];
  return svg(
    "g",
    { "data-mark": mark, "data-frontier": isFrontier },
    svg("title", {}, `${mark}: ${text(size)}, ${percent(value)} (${percent(low)} to ${percent(high)})`),
    svg("line", { class: "whisker", x1: x(size), x2: x(size), y1: y(low), y2: y(high) }),
    svg("line", { class: "whisker", x1: left, x2: right, y1: y(low), y2: y(low) }),
    svg("line", { class: "whisker", x1: left, x2: right, y1: y(high), y2: y(high) }),
    svg("circle", { cx: x(size), cy: y(value), r: 5 }),
    svg("text", { class: "label", x: x(size) + 9, y: y(value) - 7 }, mark)
  );
}

function svg(name, attributes, ...children) {
  const made = document.createElementNS(NAMESPACE, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}
