// The command that sends a request as the form does.

import { hasKey } from "./api.js";

/** A curl command line for POST /jobs; a key is named by its variable, never shown. */
export function curlFor(request, route = "jobs") {
  const lines = [`curl ${new URL(route, document.baseURI)}`];
  if (hasKey()) lines.push(`-H "Authorization: Bearer $SLIM_API_KEY"`);
  lines.push("-H 'Content-Type: application/json'");
  lines.push(`-d '${JSON.stringify(request, null, 2).replaceAll("'", `'\\''`)}'`);
  return lines.join(" \\\n  ");
}
