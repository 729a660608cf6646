// Shows the view of the address' fragment, the dialog for the API key and the state of the service.

import { hasKey, read, useKey } from "./api.js";
import { showComparison } from "./comparison/comparison.js";
import { element, fill, problemBox } from "./elements.js";
import { showForm } from "./form/form.js";
import { showJob } from "./job.js";
import { showJobs } from "./jobs.js";

const HEALTH_MS = 15000;
const main = document.getElementById("main");
const dialog = document.getElementById("key-dialog");
let running = new AbortController();

async function show() {
  running.abort();
  running = new AbortController();
  const { signal } = running;
  const [path, query = ""] = location.hash.replace(/^#/, "").split("?");
  const [, page = "", id = ""] = path.split("/");
  mark(page);
  try {
    if (page === "jobs" && id) await showJob(main, id, signal);
    else if (page === "compare") await showComparison(main, new URLSearchParams(query), signal);
    else if (page === "new") await showForm(main, new URLSearchParams(query), signal);
    else await showJobs(main, new URLSearchParams(query), signal);
  } catch (problem) {
    if (problem.name === "AbortError") return;
    if (!problem.title) throw problem;
    fill(
      main,
      element("h1", {}, "The page cannot be shown"),
      problemBox(problem),
      element("p", {}, element("a", { href: "#/" }, "All jobs"))
    );
  }
}

function mark(page) {
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.page === (page === "new" ? "new" : "jobs")) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function showKeyDialog(reason) {
  if (dialog.open) return;
  if (reason)
    document.getElementById("key-reason").textContent = `${reason}. The key is kept in the memory of this tab.`;
  dialog.returnValue = "";
  dialog.showModal();
}

dialog.addEventListener("close", () => {
  const input = document.getElementById("key-input");
  if (dialog.returnValue === "") return;
  useKey(dialog.returnValue === "use" ? input.value : "");
  input.value = "";
  document.getElementById("key-button").textContent = hasKey() ? "API key in use" : "API key";
  show();
});

async function checkHealth() {
  const health = document.getElementById("health");
  try {
    const { ok, checks, warnings } = await fetch("readyz", { cache: "no-store" }).then((answer) => answer.json());
    const failing = Object.entries(checks)
      .filter(([, check]) => !check.ok)
      .map(([name]) => name);
    health.dataset.ok = String(ok && warnings.length === 0);
    health.textContent = failing.length ? `${failing.join(", ")} does not answer` : (warnings[0] ?? "ready");
  } catch {
    health.dataset.ok = "false";
    health.textContent = "the server does not answer";
  }
}

document.getElementById("key-button").addEventListener("click", () => showKeyDialog());
window.addEventListener("key-needed", (event) => showKeyDialog(event.detail));
window.addEventListener("hashchange", async () => {
  await show();
  window.scrollTo(0, 0);
  main.querySelector("h1")?.setAttribute("tabindex", "-1");
  main.querySelector("h1")?.focus({ preventScroll: true });
});
setInterval(checkHealth, HEALTH_MS);
checkHealth();
show();
