// The curl command that sends a request.

import { hasKey } from "./api.js";

/** A curl command for POST /jobs. It refers to the API key by the variable SLIM_API_KEY. */
export function curlFor(request, route = "jobs") {
  const lines = [`curl ${new URL(route, document.baseURI)}`];
  if (hasKey()) lines.push(`-H "Authorization: Bearer $SLIM_API_KEY"`);
  lines.push("-H 'Content-Type: application/json'");
  lines.push(`-d '${JSON.stringify(request, null, 2).replaceAll("'", `'\\''`)}'`);
  return lines.join(" \\\n  ");
}
