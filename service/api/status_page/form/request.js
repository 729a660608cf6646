// Converts the fields of the form to a JobRequest and back. Empty fields are left out of the request.

import { withCarried } from "./carried.js";
import { composeOutput, fieldsOfOutput } from "./output.js";
import { composeRecovery, fieldsOfRecovery } from "./recovery.js";
import { composeRows, fieldsOfRows, withGeneralRows } from "./rows.js";
import { composeTarget, fieldsOfTarget } from "./target.js";

// Fields of a request that the form always sets, though no control has the name.
const WHOLE = ["target", "observe", "tasks", "task.synthesis.rationales"];
// Members of a request that stay where they are empty. In place of a list that is left out the API takes its default.
const KEPT = ["model", "task", "target", "calibration", "units", "formats", "gguf_types", "recovery", "synthesis"];
/** The value of the choice of task for several tasks. */
export const SEVERAL = "*";

/** How the prompts of the form's own task are made: "template" or "messages"; "none" where its rows are words. */
export const promptOf = ({ elements }) =>
  elements["task.kind"].value === "token_classification" ? "none" : elements.prompt.value;

const promptFields = (form) =>
  ({
    none: {},
    messages: { messages: form.elements["task.messages"].value.trim() },
    template: { template: form.elements["task.template"].value }
  })[promptOf(form)];

/** The request of a form, and the errors of fields that cannot be read.
 *
 * Fields of the request that the form lacks are taken from `carried`.
 */
export function compose(form, carried) {
  const errors = [];
  const value = (name) => form.elements[name].value.trim();
  const several = value("task.preset") === SEVERAL;
  const own = value("task.preset") === "";
  const task = own
    ? {
        kind: value("task.kind"),
        ...promptFields(form),
        labels: labels(value("task.labels"), errors)
      }
    : { preset: value("task.preset") };
  const request = {
    model: { uri: value("model.uri"), revision: value("model.revision"), adapter_uri: value("model.adapter_uri") },
    ...(several
      ? { tasks: tasks(value("tasks"), errors) }
      : {
          task: {
            ...task,
            calibration: calibration(value, errors),
            evaluation: { uri: value("task.evaluation.uri") },
            ...composeRows(value, number)
          }
        }),
    method: {
      criterion: value("method.criterion"),
      units: checked(form, "method.units"),
      scope: value("method.scope"),
      repair: value("method.repair"),
      steps: number(value("method.steps")),
      shards: number(value("method.shards")),
      general_weight: several ? undefined : number(value("method.general_weight")),
      controls: form.elements["method.controls"].checked || undefined
    },
    target: composeTarget(value, number),
    recovery: composeRecovery(value, number),
    output: composeOutput(value, number, (name) => checked(form, name)),
    observe: observe(value("observe"), errors),
    tags: tags(value("tags"), errors),
    webhook: { url: value("webhook.url") },
    deadline_seconds: number(value("deadline_seconds"))
  };
  const whole = withoutEmpty(withCarried(request, carried, decidedIn(form, several)), KEPT);
  if (whole.task?.evaluation && !whole.task.evaluation.uri) delete whole.task.evaluation;
  if (whole.webhook && !whole.webhook.url) delete whole.webhook;
  if (whole.task) whole.task = withGeneralRows(whole.task, carried);
  return { request: whole, errors };
}

/** The dotted names of a request that the form decides on. Parts that it leaves out are decided as a whole. */
function decidedIn({ elements }, several) {
  const decided = new Set([...WHOLE, ...[...elements].map((control) => control.name)]);
  if (several) decided.add("task");
  if (elements["recovery.method"].value === "") decided.add("recovery");
  if (elements["task.synthesis"].value !== "") decided.delete("task.synthesis");
  if (elements["task.synthesis.model.uri"].value.trim() === "") decided.add("task.synthesis.model");
  return decided;
}

function tasks(text, errors) {
  try {
    const found = JSON.parse(text || "[]");
    if (Array.isArray(found)) return found;
  } catch {
    // reported below
  }
  errors.push({ param: "tasks", message: "send a JSON array of tasks" });
  return [];
}

/** The observed tasks, one on each line: a preset and its rows, or the task as JSON. */
function observe(text, errors) {
  return text
    .split("\n")
    .filter((line) => line.trim())
    .map((line) => observed(line.trim(), errors));
}

function observed(line, errors) {
  const [preset, ...uri] = line.split("=");
  if (!line.startsWith("{") && uri.length) return { preset: preset.trim(), evaluation: { uri: uri.join("=").trim() } };
  try {
    return JSON.parse(line);
  } catch {
    errors.push({ param: "observe", message: `“${line}” is neither “preset = URI” nor JSON` });
    return null;
  }
}

/** The line of an observed task; the reverse of `observed`. */
function observedLine(task) {
  const { preset, evaluation, ...others } = withoutEmpty(task, []);
  const isPlain = preset && evaluation.uri && Object.keys(others).length === 0 && Object.keys(evaluation).length === 1;
  return isPlain ? `${preset} = ${evaluation.uri}` : JSON.stringify({ preset, ...others, evaluation });
}

function calibration(value, errors) {
  return {
    uri: value("task.calibration.uri"),
    rows: rows(value("task.calibration.rows"), errors),
    limit: number(value("task.calibration.limit"))
  };
}

const checked = (form, name) => [...form.querySelectorAll(`[name="${name}"]:checked`)].map((box) => box.value);
const number = (text) => (text === "" || Number.isNaN(Number(text)) ? undefined : Number(text));

function rows(text, errors) {
  if (!text) return undefined;
  const found = [];
  for (const [index, line] of text.split("\n").entries()) {
    try {
      if (line.trim()) found.push(JSON.parse(line));
    } catch {
      errors.push({ param: "task.calibration.rows", message: `line ${index + 1} is not JSON` });
      break;
    }
  }
  return found;
}

function labels(text, errors) {
  const lines = text.split("\n").filter((line) => line.trim());
  if (lines.length === 0) return undefined;
  const found = {};
  for (const line of lines) {
    const [label, ...word] = line.split("=");
    if (word.length === 0) errors.push({ param: "task.labels", message: `“${line.trim()}” has no “=”` });
    else found[label.trim()] = word.join("=").trim();
  }
  return found;
}

function tags(text, errors) {
  const found = {};
  for (const tag of text.split(",").filter((part) => part.trim())) {
    const [key, ...rest] = tag.split(":");
    if (rest.length === 0) errors.push({ param: "tags", message: `“${tag.trim()}” has no “:”` });
    else found[key.trim()] = rest.join(":").trim();
  }
  return found;
}

/** An object without empty texts, undefined values and empty objects, except for the names in `kept`. */
function withoutEmpty(object, kept) {
  const entries = Object.entries(object)
    .map(([name, value]) => [
      name,
      value && typeof value === "object" && !Array.isArray(value) ? withoutEmpty(value, kept) : value
    ])
    .filter(([name, value]) => kept.includes(name) || !isEmpty(value));
  return Object.fromEntries(entries);
}

const isEmpty = (value) =>
  value === undefined ||
  value === null ||
  value === "" ||
  (typeof value === "object" && Object.keys(value).length === 0);

/** The fields of the form, from a request; the reverse of `compose`. */
export function fieldsOf(request) {
  const { model, task, target, output = {} } = request;
  const fields = {
    ...(task ? fieldsOfTask(task) : { "task.preset": SEVERAL, tasks: JSON.stringify(request.tasks, null, 2) }),
    "model.uri": model.uri,
    "model.revision": model.revision,
    "model.adapter_uri": model.adapter_uri,
    ...fieldsOfTarget(target),
    ...fieldsOfRecovery(request.recovery),
    ...fieldsOfOutput(output),
    observe: (request.observe ?? []).map(observedLine).join("\n"),
    "webhook.url": request.webhook?.url,
    deadline_seconds: request.deadline_seconds,
    tags: Object.entries(request.tags ?? {})
      .map(([key, value]) => `${key}:${value}`)
      .join(", ")
  };
  return Object.fromEntries(
    Object.entries(fields)
      .filter(([, value]) => value !== null && value !== undefined)
      .map(([name, value]) => [name, String(value)])
  );
}

/** The fields of the form, from a method with its defaults. */
export const fieldsOfMethod = ({ criterion, units, scope, repair, steps, shards, controls, ...others }) => ({
  "method.steps": steps,
  "method.shards": shards,
  "method.general_weight": others.general_weight,
  "method.controls": controls,
  "method.criterion": criterion,
  "method.units": String(units),
  "method.scope": scope,
  "method.repair": repair
});

const fieldsOfTask = (task) => ({
  "task.preset": task.preset ?? "",
  "task.kind": task.kind ?? "classification",
  prompt: task.messages ? "messages" : "template",
  "task.template": task.template,
  "task.messages": task.messages,
  "task.labels": Object.entries(task.labels ?? {})
    .map(([label, word]) => `${label} = ${word}`)
    .join("\n"),
  "task.calibration.uri": task.calibration.uri,
  "task.calibration.limit": task.calibration.limit,
  "task.evaluation.uri": task.evaluation?.uri,
  ...fieldsOfRows(task)
});
