// Asks the API. The key lives in this module's memory and nowhere else.

let key = "";

/** An error answer: `code`, `title`, the fields that it names, and what to change as its message. */
export class Problem extends Error {
  constructor(status, document) {
    super(document.detail ?? `The server answered ${status}.`);
    this.status = status;
    this.code = document.code ?? "";
    this.title = document.title ?? "Request failed";
    this.fields = document.errors ?? [];
  }
}

export function useKey(value) {
  key = value.trim();
}

export const hasKey = () => key !== "";

/** The answer to a request; throws a `Problem` for anything that is not a success. */
export async function ask(path, { method = "GET", accept = "application/json", body, headers = {}, signal } = {}) {
  const sent = { Accept: accept, ...headers };
  if (key) sent.Authorization = `Bearer ${key}`;
  if (body !== undefined) sent["Content-Type"] = "application/json";
  const options = { method, headers: sent, signal, cache: "no-store", credentials: "omit" };
  if (body !== undefined) options.body = JSON.stringify(body);
  const answer = await reach(path, options);
  if (answer.ok) return answer;
  const problem = new Problem(answer.status, await answer.json().catch(() => ({})));
  if (answer.status === 401) window.dispatchEvent(new CustomEvent("key-needed", { detail: problem.message }));
  throw problem;
}

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { title: "No answer", detail: "The server cannot be reached.", code: "unreachable" });
  }
}

/** The JSON answer to a request. */
export const read = async (path, options) => (await ask(path, options)).json();
