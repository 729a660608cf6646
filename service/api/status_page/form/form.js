// The form of a new job: shows its request as JSON and as curl, shows the plan of it, submits it.

import { read } from "../api.js";
import { defaultsOf, withoutDefaults } from "./carried.js";
import { OWN, formElement, splitter } from "./fields.js";
import { curlFor } from "../curl.js";
import { copyButton, element, fill, problemBox } from "../elements.js";
import { planPart } from "./plan.js";
import { showOutput } from "./output.js";
import { showRecovery } from "./recovery.js";
import { SEVERAL, compose, fieldsOf, fieldsOfMethod, promptOf } from "./request.js";
import { showRows } from "./rows.js";
import { showTarget } from "./target.js";
import { upload } from "./upload.js";

const WAIT_MS = 400;

/** Show the form in `main`; `?from=<job id>` fills it with that job's request. */
export async function showForm(main, parameters, signal) {
  document.title = "New job · Taskslim";
  const from = parameters.get("from");
  const [capabilities, { components }, job] = await Promise.all([
    read("capabilities", { signal }),
    read("openapi.json", { signal }),
    from ? read(`jobs/${from}`, { signal }) : null
  ]);
  const { JobRequest, Method } = components.schemas;
  const carried = job ? withoutDefaults(job.request, JobRequest, components.schemas) : {};
  const method = job?.request.method ?? defaultsOf(Method);
  const view = { signal, capabilities, carried, timer: 0, planning: new AbortController() };
  view.form = formElement(
    capabilities,
    components.schemas,
    { ...fieldsOfMethod(method), ...(job ? fieldsOf(carried) : {}) },
    splitter(components.schemas, carried)
  );
  view.json = element("pre", { tabIndex: 0, "aria-label": "Request as JSON" });
  view.curl = element("pre", { tabIndex: 0, "aria-label": "Request as curl" });
  view.plan = element("section", { "aria-label": "Plan", "aria-live": "polite" });
  view.outcome = element("div");
  fill(
    main,
    element("div", { className: "title" }, element("h1", {}, "New job")),
    view.outcome,
    element("div", { className: "columns" }, view.form, preview(view))
  );
  view.form.addEventListener("input", () => update(view));
  view.form.addEventListener("submit", (event) => submit(view, event));
  for (const input of view.form.querySelectorAll("[type=file]")) {
    input.addEventListener("change", () => uploadRows(view, input));
  }
  update(view);
}

function preview(view) {
  return element(
    "aside",
    { className: "preview" },
    view.plan,
    element(
      "div",
      { className: "title" },
      element("h2", {}, "curl"),
      copyButton(() => view.curl.textContent)
    ),
    view.curl,
    element("details", { className: "panel" }, element("summary", {}, "Request as JSON"), view.json)
  );
}

/** Upload the file of an input, and name the data set in the field that the input belongs to. */
async function uploadRows(view, input) {
  if (!input.files[0]) return;
  const param = input.dataset.names;
  try {
    view.form.elements[param].value = await upload(input.files[0], view.signal);
    if (param === "task.calibration.uri") view.form.elements["task.calibration.rows"].value = ""; // in place of them
    update(view);
  } catch (problem) {
    if (problem.name === "AbortError") return;
    update(view);
    showErrors(view, [{ param, message: problem.message }]);
  }
}

// --- preview, plan, submission -----------------------------------------------------------------------------------------

function update(view) {
  const preset = view.form.elements["task.preset"].value;
  view.form.querySelector(".own-task").hidden = preset !== OWN;
  showTarget(view.form);
  showRecovery(view.form);
  showOutput(view.form);
  showRows(view.form, preset === SEVERAL);
  const prompt = promptOf(view.form);
  view.form.elements.prompt.closest(".field").hidden = prompt === "none";
  for (const field of view.form.querySelectorAll("[data-prompt]")) field.hidden = field.dataset.prompt !== prompt;
  view.form.querySelector(".several-tasks").hidden = preset !== SEVERAL;
  view.form.querySelector(".rows").hidden = preset === SEVERAL;
  clearErrors(view.form);
  const { request, errors } = compose(view.form, view.carried);
  showErrors(view, errors);
  view.json.textContent = JSON.stringify(request, null, 2);
  view.curl.textContent = curlFor(request);
  clearTimeout(view.timer);
  view.planning.abort(); // the answer of an earlier plan would replace that of the present request
  view.planning = new AbortController();
  const hasRows = request.tasks?.length || request.task?.calibration.uri || request.task?.calibration.rows;
  const complete = request.model.uri && hasRows && errors.length === 0;
  if (complete) view.timer = setTimeout(() => plan(view, request), WAIT_MS);
  else fill(view.plan);
}

async function plan(view, request) {
  const signal = AbortSignal.any([view.signal, view.planning.signal]);
  try {
    const made = await read("plans", { method: "POST", body: request, signal });
    fill(view.plan, planPart(made));
  } catch (problem) {
    if (problem.name === "AbortError") return;
    fill(view.plan, element("h2", {}, "Plan"), problemBox(problem));
    showErrors(view, problem.fields);
  }
}

async function submit(view, event) {
  event.preventDefault();
  clearErrors(view.form);
  const { request, errors } = compose(view.form, view.carried);
  if (errors.length) return showErrors(view, errors, true);
  const button = view.form.querySelector("[type=submit]");
  button.disabled = true;
  try {
    const job = await read("jobs", { method: "POST", body: request, signal: view.signal });
    location.hash = `#/jobs/${job.id}`;
  } catch (problem) {
    if (problem.name !== "AbortError") refuse(view, problem);
  } finally {
    button.disabled = false;
  }
}

function refuse(view, problem) {
  fill(view.outcome, problemBox(problem));
  showErrors(view, problem.fields, true);
}

/** Show each error at the field that it is about. */
function showErrors(view, errors, focus = false) {
  const shown = errors.map((error) => [controlOf(view.form, error), error.message]).filter(([control]) => control);
  for (const [control, message] of shown) {
    control.setAttribute("aria-invalid", "true");
    const section = control.closest("details");
    if (section) section.open = true;
    const note = document.getElementById(`${control.id}-error`);
    note.textContent = message;
    note.hidden = false;
  }
  if (focus) (shown[0]?.[0] ?? view.outcome).scrollIntoView({ block: "center" });
  if (focus) shown[0]?.[0].focus({ preventScroll: true });
}

/** The control of an error: of the field that the error names, that its message names, or that is nearest in the request.
 *
 * An error of several fields has the path of what contains them, and names them in its message.
 */
function controlOf(form, { param, message }) {
  const inside = [...message.matchAll(/`([\w.]+)/g)].map(([, name]) => name);
  const around = param.split(".").map((_, index, parts) => parts.slice(0, parts.length - index).join("."));
  for (const name of [param, ...inside.map((name) => `${param}.${name}`), ...inside, ...around.slice(1)]) {
    const control = form.querySelector(`[name="${name}"]`) ?? form.querySelector(`[name="${name}.uri"]`);
    if (control) return control;
  }
  return form.querySelector(`[name^="${param}."]`);
}

function clearErrors(form) {
  for (const control of form.querySelectorAll("[aria-invalid]")) control.removeAttribute("aria-invalid");
  for (const note of form.querySelectorAll(".error")) note.hidden = true;
}
