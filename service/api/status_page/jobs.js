// The list of jobs, with filters and live progress.

import { read } from "./api.js";
import { element, fill, problemBox } from "./elements.js";
import { progressOrOutcome, statusMark } from "./parts.js";
import { after, follow } from "./stream.js";
import { duration } from "./formatting.js";
import { ago, between, isFinished, modelName, taskName } from "./words.js";

const STATUSES = ["queued", "running", "cancelling", "succeeded", "failed", "cancelled"];
const COLUMNS = ["Status", "Model and task", "Progress or outcome", "Created", "Took"];
const REFRESH_MS = 5000;
// A browser opens at most six connections to a server over HTTP/1.1; the page needs some for other requests.
const MAX_STREAMS = 3;

/** Show the list in `main` and update it until `signal` aborts, when another view is shown. */
export async function showJobs(main, parameters, signal) {
  document.title = "Jobs · Taskslim";
  const view = { filters: parameters, jobs: new Map(), rows: new Map(), streams: new Set(), pages: 1, signal };
  view.chosen = new Set();
  view.body = element("tbody");
  view.notice = element("div", { className: "notice" });
  view.compare = element("button", { type: "button", disabled: true, onclick: () => compare(view) }, "Compare");
  view.more = element("button", { type: "button", hidden: true, onclick: () => showMore(view) }, "Show more");
  fill(
    main,
    heading(view.compare),
    filterForm(parameters),
    view.notice,
    table(view.body),
    element("div", { className: "actions" }, view.more)
  );
  signal.addEventListener("abort", () => clearInterval(timer), { once: true });
  const timer = setInterval(() => document.hidden || refresh(view), REFRESH_MS);
  await refresh(view);
}

function heading(compareButton) {
  return element(
    "div",
    { className: "title" },
    element("h1", {}, "Jobs"),
    element(
      "div",
      { className: "actions" },
      compareButton,
      element("a", { className: "button primary", href: "#/new" }, "New job")
    )
  );
}

/** Show the chosen jobs beside each other, oldest first. */
function compare(view) {
  const ids = view.order.filter((id) => view.chosen.has(id)).reverse();
  location.hash = `#/compare?jobs=${ids.join(",")}`;
}

/** A box that chooses a job for the comparison; none for a job without a result. */
function chooser(view, job, known) {
  if (job.status !== "succeeded") return null;
  const change = ({ target }) => {
    if (target.checked) view.chosen.add(job.id);
    else view.chosen.delete(job.id);
    view.compare.disabled = view.chosen.size === 0;
  };
  const label = `Compare ${modelName(job.request)} for ${taskName(job.request)}`;
  return known ?? element("input", { type: "checkbox", className: "choose", "aria-label": label, onchange: change });
}

function table(body) {
  const row = element(
    "tr",
    {},
    COLUMNS.map((name) => element("th", { scope: "col" }, name))
  );
  return element(
    "table",
    { className: "jobs" },
    element("caption", { className: "hidden" }, "Jobs, newest first"),
    element("thead", {}, row),
    body
  );
}

function filterForm(parameters) {
  const chosen = parameters.get("status") ?? "";
  const options = ["", ...STATUSES].map((status) =>
    element("option", { value: status, selected: status === chosen }, status || "any status")
  );
  const form = element(
    "form",
    { className: "filters", role: "search", "aria-label": "Filter jobs" },
    element(
      "label",
      {},
      "Status",
      element("select", { name: "status", onchange: () => form.requestSubmit() }, options)
    ),
    element(
      "label",
      {},
      "Tag",
      element("input", {
        name: "tag",
        value: parameters.get("tag") ?? "",
        placeholder: "team:search",
        spellcheck: false
      })
    ),
    element("button", { type: "submit" }, "Filter")
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const wanted = new URLSearchParams([...new FormData(form)].filter(([, value]) => value.trim()));
    location.hash = wanted.size ? `#/?${wanted}` : "#/";
  });
  return form;
}

async function refresh(view) {
  try {
    const found = await pages(view);
    if (view.signal.aborted) return;
    for (const job of found.jobs) view.jobs.set(job.id, newer(view.jobs.get(job.id), job));
    draw(view, found);
    watch(view);
  } catch (problem) {
    if (problem.name !== "AbortError") fill(view.notice, problemBox(problem));
  }
}

/** The newer of two states of a job: a stream may be ahead of the list, except for the end of a job. */
const newer = (known, listed) =>
  known && !isFinished(listed) && known.attempt >= listed.attempt && known.progress.fraction > listed.progress.fraction
    ? known
    : listed;

async function pages(view) {
  const jobs = [];
  let cursor = null;
  for (let page = 0; page < view.pages; page += 1) {
    const query = new URLSearchParams(view.filters);
    if (cursor) query.set("cursor", cursor);
    const answer = await read(`jobs?${query}`, { signal: view.signal });
    jobs.push(...answer.data);
    cursor = answer.next_cursor;
    if (!cursor) break;
  }
  return { jobs, more: cursor !== null };
}

function showMore(view) {
  view.pages += 1;
  return refresh(view);
}

function draw(view, { jobs, more }) {
  view.order = jobs.map((job) => job.id);
  fill(
    view.body,
    view.order.map((id) => rowOf(view, id))
  );
  fill(view.notice, jobs.length ? null : emptyNote(view.filters));
  view.body.parentElement.hidden = jobs.length === 0;
  view.more.hidden = !more;
}

function emptyNote(filters) {
  if (filters.size)
    return element(
      "p",
      { className: "empty" },
      "No job matches these filters. ",
      element("a", { href: "#/" }, "Show all jobs")
    );
  return element(
    "p",
    { className: "empty" },
    "No job yet. ",
    element("a", { href: "#/new" }, "Fill in the form"),
    " or send a request with curl."
  );
}

/** The row of a job. It is drawn again only where the job has changed, so that focus and selection stay. */
function rowOf(view, id) {
  const job = view.jobs.get(id);
  const text = JSON.stringify(job) + ago(job.created_at);
  const known = view.rows.get(id);
  if (known?.text === text) return known.row;
  const row = known?.row ?? element("tr", { "data-job": id });
  fillRow(view, row, job);
  view.rows.set(id, { row, text });
  return row;
}

function fillRow(view, row, job) {
  const name = row.querySelector("a") ?? element("a", { href: `#/jobs/${job.id}` }, modelName(job.request));
  const tags = Object.entries(job.tags).map(([key, value]) =>
    element("a", { className: "tag", href: `#/?${new URLSearchParams({ tag: `${key}:${value}` })}` }, `${key}:${value}`)
  );
  const contents = [
    [chooser(view, job, row.querySelector("input")), statusMark(job)],
    [name, element("div", { className: "note" }, taskName(job.request), " ", tags)],
    progressOrOutcome(job),
    element(
      "time",
      { dateTime: job.created_at, title: new Date(job.created_at).toLocaleString() },
      ago(job.created_at)
    ),
    job.started_at ? duration(between(job.started_at, job.finished_at)) : ""
  ];
  if (!row.hasChildNodes()) row.append(...COLUMNS.map((label) => element("td", { "data-label": label })));
  for (const [index, content] of contents.entries()) fill(row.cells[index], content);
}

/** Follow running jobs, then queued ones, by their streams; the other jobs are updated by the list's refresh. */
function watch(view) {
  const open = view.order.map((id) => view.jobs.get(id)).filter((job) => !isFinished(job));
  const ranked = [...open.filter((job) => job.status !== "queued"), ...open.filter((job) => job.status === "queued")];
  for (const { id } of ranked.slice(0, MAX_STREAMS))
    if (view.streams.size < MAX_STREAMS && !view.streams.has(id)) watchOne(view, id);
}

async function watchOne(view, id) {
  view.streams.add(id);
  try {
    for await (const event of follow(id, view.signal)) await take(view, id, event);
  } catch (problem) {
    if (problem.name !== "AbortError") fill(view.notice, problemBox(problem));
  } finally {
    view.streams.delete(id);
  }
}

/** Apply an event to a job of the list. Past events are ignored; for a change of status the list is read again. */
async function take(view, id, event) {
  const job = view.jobs.get(id);
  if (event.type === "status") {
    if (event.data.status !== job.status) await refresh(view);
    return;
  }
  const next = after(job, event);
  if (event.attempt < job.attempt || (event.attempt === job.attempt && next.progress.fraction < job.progress.fraction))
    return;
  view.jobs.set(id, next);
  rowOf(view, id);
}
