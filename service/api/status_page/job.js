// The page of a job: its state, result, report and files.

import { read, request } from "./api.js";
import { curlFor } from "./curl.js";
import { copyButton, element, fill, problemBox } from "./elements.js";
import { curveTable, progressBar, statusMark, tiles } from "./parts.js";
import { after, follow } from "./stream.js";
import { duration, size } from "./formatting.js";
import { adapterName, ago, between, isFinished, modelName, plain, targetWords, taskName } from "./words.js";

const STAGES = [
  "fetch",
  "load",
  "synthesise",
  "evaluate_dense",
  "attribute",
  "search",
  "select",
  "repair",
  "slice",
  "evaluate_slim",
  "recover",
  "controls",
  "verify",
  "export",
  "quantise",
  "upload"
];
const EXPORTS = ["gguf", "onnx", "mlx"]; // formats of other runtimes
const MAX_EVENTS = 200;
const FEW_FILES = 12; // a longer list of files, as of a sweep, starts closed

/** Show a job in `main` and update it until the job ends or `signal` aborts, when another view is shown. */
export async function showJob(main, id, signal) {
  const view = {
    id,
    signal,
    job: await read(`jobs/${id}`, { signal }),
    events: element("ol", { className: "events" })
  };
  view.facts = element("p", { className: "facts" });
  view.buttons = element("div", { className: "actions" });
  view.state = element("section", { "aria-label": "State" });
  view.report = element("section", { "aria-label": "Report" });
  view.files = element("section", { "aria-label": "Files" });
  fill(main, head(view), view.state, view.files, view.report, requestPart(view.job), eventsPart(view.events));
  draw(view);
  if (isFinished(view.job)) await showResult(view);
  watch(view).catch((problem) => refuse(view.state, problem));
}

async function watch(view) {
  for await (const event of follow(view.id, view.signal)) {
    note(view.events, event);
    const wasFinished = isFinished(view.job);
    if (wasFinished) continue;
    view.job =
      event.type === "status" ? await read(`jobs/${view.id}`, { signal: view.signal }) : after(view.job, event);
    draw(view);
    if (isFinished(view.job)) await showResult(view);
  }
}

// --- head ------------------------------------------------------------------------------------------------------

function draw(view) {
  const { job } = view;
  document.title = `${job.status} · ${modelName(job.request)} · Taskslim`;
  fill(view.facts, statusMark(job), ...facts(job));
  if (view.buttons.dataset.status !== job.status) fill(view.buttons, buttons(view));
  view.buttons.dataset.status = job.status;
  fill(view.state, isFinished(job) ? ending(job) : [progressBar(job), stageList(job)]);
}

/** The parts above the state. The heading is not drawn again, because it may have the focus. */
function head({ job, facts: line, buttons: actions }) {
  return [
    element("p", { className: "trail" }, element("a", { href: "#/" }, "Jobs"), " / ", element("code", {}, job.id)),
    element(
      "div",
      { className: "title" },
      element("h1", {}, modelName(job.request), element("small", {}, ` for ${taskName(job.request)}`)),
      actions
    ),
    element(
      "p",
      { className: "note" },
      adapterName(job.request) && `With the adapter ${adapterName(job.request)}. `,
      `Target: ${targetWords(job.request.target)}.`,
      afterwards(job.request).map((part) => ` ${part}`)
    ),
    line
  ];
}

/** What becomes of the model after the cut, in words. */
function afterwards({ recovery, output }) {
  const exports = output.formats.filter((format) => EXPORTS.includes(format));
  return [
    recovery && `Recovery: ${recovery.method}, at most ${duration(recovery.seconds)}.`,
    exports.length && `Exports: ${exports.join(", ")}.`,
    output.quantise.length && `Quantised copies: ${output.quantise.join(", ")}.`
  ].filter(Boolean);
}

function facts(job) {
  const parts = [`created ${ago(job.created_at)}`];
  if (job.started_at)
    parts.push(`${isFinished(job) ? "took" : "running for"} ${duration(between(job.started_at, job.finished_at))}`);
  if (job.result?.scores_reused) parts.push("scores reused");
  for (const { number, outcome } of job.attempts.slice(0, -1))
    parts.push(`attempt ${number} ${plain(outcome ?? "over")}`);
  if (job.expires_at) parts.push(`kept until ${new Date(job.expires_at).toLocaleDateString()}`);
  const tags = Object.entries(job.tags).map(([key, value]) => element("span", { className: "tag" }, `${key}:${value}`));
  return [element("span", { className: "note" }, parts.join(" · ")), ...tags];
}

function buttons(view) {
  const again = element("a", { className: "button", href: `#/new?from=${view.id}` }, "Use again");
  if (!isFinished(view.job))
    return [again, act(view, "Cancel", () => request(`jobs/${view.id}/cancel`, { method: "POST" }))];
  const remove = async () => {
    if (!confirm("Delete this job and its files?")) return;
    await request(`jobs/${view.id}`, { method: "DELETE" });
    location.hash = "#/";
  };
  return [again, act(view, "Delete", remove)];
}

function act(view, label, action) {
  const button = element("button", { type: "button", disabled: view.job.status === "cancelling" }, label);
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      await action();
    } catch (problem) {
      fill(view.state, problemBox(problem));
    }
    button.disabled = false;
  });
  return button;
}

// --- state -----------------------------------------------------------------------------------------------------

function stageList(job) {
  const stages = STAGES.filter((stage) => !leftOut(job.request).includes(stage));
  const present = stages.indexOf(job.stage);
  const state = (index) => (index < present ? "done" : index === present ? "now" : "ahead");
  const items = stages.map((stage, index) =>
    element("li", { "data-state": state(index), "aria-current": index === present ? "step" : null }, plain(stage))
  );
  return element("ol", { className: "stages", "aria-label": "Stages" }, items);
}

/** The stages that a request does not have. A target that has to be measured has `search` in place of three others. */
function leftOut({ method, target, recovery, output, task, tasks = [] }) {
  const writes = [task, ...tasks].some((each) => each?.synthesis);
  const omitted = [
    ...(writes ? [] : ["synthesise"]),
    ...(recovery ? [] : ["recover"]),
    ...(method.controls ? [] : ["controls"]),
    ...(output.formats.some((format) => EXPORTS.includes(format)) ? [] : ["export"]),
    ...(output.quantise.length ? [] : ["quantise"]),
    ...(method.repair === "none" ? ["repair"] : [])
  ];
  const { keep_metric: floor, latency_ms: bound, sweep, general_weights: weights } = target;
  if (floor ?? bound ?? sweep ?? weights) return [...omitted, "select", "repair", "slice"];
  return [...omitted, "search"];
}

function ending(job) {
  if (job.status === "succeeded") return tiles(job.result);
  if (job.status === "cancelled") return element("p", { className: "empty" }, "Cancelled. Nothing was stored.");
  const { code, message, param, curve = [] } = job.error;
  const stage = job.stage ? `Failed at ${plain(job.stage)}` : "Failed";
  return [
    problemBox({ title: stage, message, code }),
    param &&
      element(
        "p",
        { className: "note" },
        "Change ",
        element("code", {}, param),
        " and ",
        element("a", { href: `#/new?from=${job.id}` }, "submit it again"),
        "."
      ),
    curve.length > 0 && curveTable(curve)
  ];
}

// --- report and files ------------------------------------------------------------------------------------------

async function showResult(view) {
  if (view.job.status !== "succeeded") return;
  const options = { signal: view.signal };
  const report = request(`jobs/${view.id}/report`, { ...options, accept: "text/html" }).then((answer) => answer.text());
  const files = read(`jobs/${view.id}/artifacts`, options);
  await Promise.all([
    report.then(
      (html) => fill(view.report, reportPart(html)),
      (problem) => refuse(view.report, problem)
    ),
    files.then(
      ({ data }) => fill(view.files, filesPart(data)),
      (problem) => refuse(view.files, problem)
    )
  ]);
}

function refuse(section, problem) {
  if (problem.name !== "AbortError") fill(section, problemBox(problem));
}

/** The report: a document without scripts, in a frame of its full height. */
function reportPart(html) {
  const frame = element("iframe", { className: "report", title: "Report", srcdoc: html });
  frame.setAttribute("sandbox", "allow-same-origin allow-popups");
  frame.addEventListener("load", () => {
    const { documentElement } = frame.contentDocument;
    const fit = () => (frame.style.height = `${documentElement.offsetHeight}px`);
    new ResizeObserver(fit).observe(documentElement);
    fit();
  });
  return [element("h2", {}, "Report"), frame];
}

function filesPart(files) {
  const rows = files.map((file) =>
    element(
      "tr",
      {},
      element("td", { "data-label": "File" }, download(file)),
      element("td", { className: "number", "data-label": "Size" }, size(file.size)),
      element(
        "td",
        { "data-label": "SHA-256" },
        element("code", { title: file.sha256 }, `${file.sha256.slice(0, 16)}…`)
      )
    )
  );
  const heads = element(
    "tr",
    {},
    element("th", { scope: "col" }, "File"),
    element("th", { scope: "col", className: "number" }, "Size"),
    element("th", { scope: "col" }, "SHA-256")
  );
  const whole = files.reduce((sum, file) => sum + file.size, 0);
  return element(
    "details",
    { className: "panel", open: files.length <= FEW_FILES },
    element("summary", {}, `Files: ${files.length}, ${size(whole)}`),
    element("table", { className: "files" }, element("thead", {}, heads), element("tbody", {}, rows))
  );
}

const download = (file) => element("a", { href: file.url, download: file.name.split("/").pop() }, file.name);

// --- request and events ----------------------------------------------------------------------------------------

function requestPart(job) {
  const request = JSON.stringify(job.request, null, 2);
  const curl = curlFor(job.request);
  return element(
    "details",
    { className: "panel" },
    element("summary", {}, "Request"),
    element(
      "div",
      { className: "actions" },
      copyButton(() => request, "Copy JSON"),
      copyButton(() => curl, "Copy curl")
    ),
    element("pre", {}, request)
  );
}

const eventsPart = (events) => element("details", { className: "panel" }, element("summary", {}, "Events"), events);

function note(list, event) {
  if (event.type === "progress") return;
  const text = { status: event.data.status, stage: plain(event.data.stage ?? ""), log: event.data.message }[event.type];
  const time = element("time", { dateTime: event.at }, new Date(event.at).toLocaleTimeString());
  list.append(element("li", {}, time, element("span", { className: "note" }, event.type), element("span", {}, text)));
  while (list.children.length > MAX_EVENTS) list.firstChild.remove();
}
