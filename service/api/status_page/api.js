// Sends requests to the API. The API key is kept in this module's memory only.

let key = "";

/** An error response: its code, title and fields, and its detail as the message. */
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

/** The response to a request, whose body is sent as JSON unless it is a file. Throws a `Problem` for an error. */
export async function request(path, { method = "GET", accept = "application/json", body, headers = {}, signal } = {}) {
  const sent = { Accept: accept, ...headers };
  if (key) sent.Authorization = `Bearer ${key}`;
  if (body !== undefined) sent["Content-Type"] ??= "application/json";
  const options = { method, headers: sent, signal, cache: "no-store", credentials: "omit" };
  if (body !== undefined) options.body = body instanceof Blob ? body : JSON.stringify(body);
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
    throw new Problem(0, {
      title: "No response",
      detail: "The server cannot be reached: check the connection and try again.",
      code: "unreachable"
    });
  }
}

/** The JSON of the response to a request. */
export const read = async (path, options) => (await request(path, options)).json();
