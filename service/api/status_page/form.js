// The form of a new job: shows its request as JSON and as curl, shows the plan of it, submits it.

import { read } from "./api.js";
import { defaultsOf, has, isExpert, withoutDefaults } from "./carried.js";
import { curlFor } from "./curl.js";
import { copyButton, element, fill, problemBox } from "./elements.js";
import { planPart } from "./plan.js";
import { SEVERAL, compose, fieldsOf, fieldsOfMethod } from "./request.js";
import { showTarget, targetFields } from "./target.js";
import { plain } from "./words.js";

const OWN = "";
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
  const view = { signal, capabilities, carried, timer: 0 };
  view.form = form(
    capabilities,
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
  view.form
    .querySelector("[name=rows-file]")
    .addEventListener("change", (event) => loadRows(view, event.target.files[0]));
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

// --- fields ----------------------------------------------------------------------------------------------------

function form({ presets, criteria, repairs, units, limits }, values, split) {
  const presetOptions = [
    [OWN, "a task of my own"],
    [SEVERAL, "several tasks at once"],
    ...presets.map(({ name }) => [name, name])
  ];
  return element(
    "form",
    { className: "request", noValidate: true },
    group(
      "Model",
      split(
        text("model.uri", "URI", values, {
          placeholder: "hf://HuggingFaceTB/SmolLM2-135M-Instruct",
          hint: "hf://, file://, s3://, gs:// or az:// directory with safetensors",
          required: true
        }),
        text("model.revision", "Revision", values, { placeholder: "main", hint: "branch, tag or commit on the hub" }),
        text("model.adapter_uri", "Adapter URI", values, { hint: "LoRA adapter that is merged first" })
      )
    ),
    group(
      "Task",
      split(
        choice("task.preset", "Task", presetOptions, values),
        element(
          "div",
          { className: "own-task" },
          choice(
            "task.kind",
            "Kind",
            [
              ["classification", "classification"],
              ["generation", "generation"]
            ],
            values
          ),
          area("task.template", "Template", values, {
            placeholder: "Review: {text}\nSentiment:",
            hint: "columns of the rows in braces"
          }),
          area("task.labels", "Labels", values, {
            placeholder: "positive = positive\nnegative = negative",
            hint: "one a line: label in the rows = answer word"
          })
        ),
        element(
          "div",
          { className: "several-tasks" },
          area("tasks", "Tasks", values, {
            rows: 8,
            placeholder: '[{"preset": "sst2", "calibration": {"uri": "s3://…"}}, …]',
            hint: "JSON array of tasks that the slim model must still be able to do"
          })
        ),
        element(
          "div",
          { className: "rows" },
          text("task.calibration.uri", "Calibration rows", values, {
            placeholder: "s3://bucket/train.jsonl",
            hint: "JSON Lines, CSV or Parquet"
          }),
          area("task.calibration.rows", "Calibration rows, inline", values, {
            placeholder: '{"text": "…", "label": "positive"}',
            hint: "JSON Lines, in place of the URI"
          }),
          element(
            "label",
            { className: "field" },
            element("span", {}, "Calibration rows from a file of this machine"),
            element("input", { type: "file", name: "rows-file", accept: ".jsonl,.json" })
          ),
          pair(
            text("task.calibration.limit", "Rows to use", values, { type: "number", min: 1, hint: "empty: all" }),
            text("task.evaluation.uri", "Evaluation rows", values, { hint: "empty: a fifth of the calibration rows" })
          )
        ),
        area("observe", "Tasks to evaluate without slimming for them", values, {
          placeholder: "imdb = s3://bucket/imdb.jsonl",
          hint: "one a line: preset = rows, or a task as JSON"
        })
      )
    ),
    group(
      "Size",
      split(
        element("div", { className: "target" }, targetFields({ text, choice }, values, limits)),
        checks("method.units", "Units to remove", units, values),
        choice("method.criterion", "Criterion", [["", "the default for the repair"], ...named(criteria)], values),
        choice("method.repair", "Repair", named(repairs), values),
        choice(
          "method.scope",
          "Rank units",
          [
            ["layer", "within each layer"],
            ["global", "across all layers"]
          ],
          values
        ),
        text("method.steps", "Steps", values, {
          type: "number",
          min: 1,
          max: 100,
          hint: "scores are computed again before each"
        }),
        choice(
          "output.layout",
          "Widths",
          [
            ["uniform", "the same in every layer"],
            ["per_layer", "one for each layer; needs a rank across all layers"]
          ],
          values
        ),
        text("output.round_to", "Widths are multiples of", values, {
          type: "number",
          min: 1,
          placeholder: "64",
          hint: "256 suits GGUF K-quants, 128 GPU kernels"
        }),
        check("method.controls", "Also evaluate models that are cut by random and by reversed scores", values)
      )
    ),
    group(
      "Job",
      split(
        text("tags", "Tags", values, { placeholder: "team:search, run:7" }),
        text("webhook.url", "Webhook URL", values, { hint: "https address that receives a message when the job ends" }),
        text("deadline_seconds", "Deadline in seconds", values, {
          type: "number",
          min: 10,
          placeholder: "3600",
          hint: "from the start of the job"
        })
      )
    ),
    element("div", { className: "actions" }, element("button", { type: "submit", className: "primary" }, "Submit job"))
  );
}

/** Splits the parts of a group: those of common fields, then a closed section with those of expert fields.
 *
 * The section is open where `carried`, the request that fills the form, has one of its fields.
 */
function splitter(schemas, carried) {
  const isForExperts = (part) =>
    part.matches(".field, .checks") && isExpert(part.querySelector("[name]").name, schemas.JobRequest, schemas);
  const isCarried = (part) => has(carried, part.querySelector("[name]").name);
  return (...parts) => {
    const expert = parts.filter(isForExperts);
    const common = parts.filter((part) => !expert.includes(part));
    if (expert.length === 0) return common;
    return [
      ...common,
      element(
        "details",
        { className: "expert", open: expert.some(isCarried) },
        element("summary", {}, "Expert options"),
        element("div", { className: "pair" }, expert)
      )
    ];
  };
}

const pair = (...fields) => element("div", { className: "pair" }, fields);
const group = (name, ...fields) => element("fieldset", {}, element("legend", {}, name), fields);

function field(label, control, hint) {
  const id = `field-${control.name}`;
  control.id = id;
  control.setAttribute("aria-describedby", `${id}-hint ${id}-error`);
  return element(
    "div",
    { className: "field" },
    element("label", { htmlFor: id }, label),
    control,
    element("p", { className: "note", id: `${id}-hint` }, hint ?? ""),
    element("p", { className: "error", id: `${id}-error`, hidden: true })
  );
}

function text(name, label, values, { hint, ...options } = {}) {
  return field(
    label,
    element("input", {
      name,
      value: values[name] ?? "",
      spellcheck: false,
      autocomplete: "off",
      step: "any",
      ...options
    }),
    hint
  );
}

function area(name, label, values, { hint, ...options } = {}) {
  return field(
    label,
    element("textarea", { name, value: values[name] ?? "", rows: 3, spellcheck: false, ...options }),
    hint
  );
}

function choice(name, label, options, values) {
  const made = options.map(([value, shown]) =>
    element("option", { value, selected: value === (values[name] ?? options[0][0]) }, shown)
  );
  return field(label, element("select", { name }, made));
}

const named = (values) => values.map((value) => [value, plain(value)]);

function checks(name, label, options, values) {
  const chosen = (values[name] ?? "ffn").split(",");
  const boxes = options.map((value) =>
    element(
      "label",
      {},
      element("input", { type: "checkbox", name, value, checked: chosen.includes(value) }),
      plain(value)
    )
  );
  return element("fieldset", { className: "checks" }, element("legend", {}, label), boxes);
}

const check = (name, label, values) =>
  element(
    "div",
    { className: "checks" },
    element("label", {}, element("input", { type: "checkbox", name, checked: values[name] === true }), label)
  );

async function loadRows(view, file) {
  if (!file) return;
  view.form.elements["task.calibration.rows"].value = await file.text();
  update(view);
}

// --- preview, plan, submission -----------------------------------------------------------------------------------------

function update(view) {
  const preset = view.form.elements["task.preset"].value;
  view.form.querySelector(".own-task").hidden = preset !== OWN;
  showTarget(view.form);
  view.form.querySelector(".several-tasks").hidden = preset !== SEVERAL;
  view.form.querySelector(".rows").hidden = preset === SEVERAL;
  clearErrors(view.form);
  const { request, errors } = compose(view.form, view.carried);
  showErrors(view, errors);
  view.json.textContent = JSON.stringify(request, null, 2);
  view.curl.textContent = curlFor(request);
  clearTimeout(view.timer);
  const hasRows = request.tasks?.length || request.task?.calibration.uri || request.task?.calibration.rows;
  const complete = request.model.uri && hasRows && errors.length === 0;
  if (complete) view.timer = setTimeout(() => plan(view, request), WAIT_MS);
  else fill(view.plan);
}

async function plan(view, request) {
  try {
    const made = await read("plans", { method: "POST", body: request, signal: view.signal });
    fill(view.plan, planPart(made));
  } catch (problem) {
    if (problem.name === "AbortError") return;
    fill(view.plan, element("h2", {}, "Plan"), problemBox(problem));
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

/** Show each error at the field that it names, or at the nearest field that contains it in the request. */
function showErrors(view, errors, focus = false) {
  const shown = errors
    .map(({ param, message }) => [controlOf(view.form, param), message])
    .filter(([control]) => control);
  for (const [control, message] of shown) {
    control.setAttribute("aria-invalid", "true");
    const section = control.closest("details");
    if (section) section.open = true;
    const note =
      document.getElementById(`${control.id}-error`) ?? view.outcome.appendChild(element("p", { className: "error" }));
    note.textContent = message;
    note.hidden = false;
  }
  if (focus) (shown[0]?.[0] ?? view.outcome).scrollIntoView({ block: "center" });
  if (focus) shown[0]?.[0].focus({ preventScroll: true });
}

function controlOf(form, param) {
  for (let name = param; name; name = name.split(".").slice(0, -1).join(".")) {
    const control = form.querySelector(`[name="${name}"]`) ?? form.querySelector(`[name="${name}.uri"]`);
    if (control) return control;
  }
  return null;
}

function clearErrors(form) {
  for (const control of form.querySelectorAll("[aria-invalid]")) control.removeAttribute("aria-invalid");
  for (const note of form.querySelectorAll(".error")) note.hidden = true;
}
