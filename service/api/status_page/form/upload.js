// Uploads a file of rows as a data set, as the command line does: the server alone parses rows.

import { Problem, read } from "../api.js";

// Ending of a file name -> media type of the upload.
const FORMATS = {
  ".jsonl": "application/jsonl",
  ".csv": "text/csv",
  ".parquet": "application/vnd.apache.parquet"
};
const MAX_NAME = 256;

export const ENDINGS = Object.keys(FORMATS).join(",");

/** The `dataset://` URI of the rows in a file. Throws a `Problem`. */
export async function upload(file, signal) {
  const ending = Object.keys(FORMATS).find((found) => file.name.toLowerCase().endsWith(found));
  if (!ending) throw new Problem(0, { detail: `${file.name} does not end in one of ${ENDINGS}.` });
  const path = `datasets?name=${encodeURIComponent(file.name.slice(-MAX_NAME))}`;
  const headers = { "Content-Type": FORMATS[ending] };
  const { uri } = await read(path, { method: "POST", body: file, headers, signal });
  return uri;
}
