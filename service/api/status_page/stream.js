// Reads the Server-Sent Events of a job by fetch, because EventSource cannot send an Authorization header.

import { request } from "./api.js";

const RETRY_MS = [500, 1000, 2000, 5000];

/** All events of a job, past and new, oldest first; resumes a broken stream after its last event.
 *
 * Ends after the event that ends the job, and with an AbortError when `signal` aborts.
 */
export async function* follow(jobId, signal) {
  let last = null;
  for (let failures = 0; ; failures += 1) {
    try {
      for await (const message of messages(jobId, last, signal)) {
        failures = -1;
        last = message.id;
        const event = JSON.parse(message.data);
        yield event;
        if (event.type === "status" && ["succeeded", "failed", "cancelled"].includes(event.data.status)) return;
      }
    } catch (problem) {
      if (signal.aborted || [401, 403, 404].includes(problem.status)) throw problem;
    }
    await pause(RETRY_MS[Math.min(Math.max(failures, 0), RETRY_MS.length - 1)], signal);
  }
}

async function* messages(jobId, last, signal) {
  const headers = last ? { "Last-Event-ID": last } : {};
  const answer = await request(`jobs/${jobId}/events`, { accept: "text/event-stream", headers, signal });
  let rest = "";
  for await (const text of decoded(answer.body)) {
    const blocks = (rest + text).replaceAll("\r\n", "\n").split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const message = parse(block);
      if (message.data) yield message;
    }
  }
}

/** The id and data of one message. A line that starts with a colon is a comment and ignored. */
export function parse(block) {
  const message = { id: null, data: "" };
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    const name = line.slice(0, Math.max(colon, 0));
    const value = line.slice(colon + 1).replace(/^ /, "");
    if (name === "id") message.id = value;
    if (name === "data") message.data += (message.data && "\n") + value;
  }
  return message;
}

async function* decoded(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener(
      "abort",
      () => {
        clearTimeout(timer);
        reject(new DOMException("stopped", "AbortError"));
      },
      { once: true }
    );
  });
}

/** A job with an event applied. */
export function after(job, event) {
  const changed = { ...job, attempt: event.attempt };
  if (event.type === "status") changed.status = event.data.status;
  if (event.type === "stage") {
    changed.stage = event.data.stage;
    changed.progress = { ...job.progress, fraction: event.data.fraction, done: null, total: null, unit: null };
  }
  if (event.type === "progress") changed.progress = event.data;
  return changed;
}
