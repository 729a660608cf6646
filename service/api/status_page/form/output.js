// What is stored of the slim model: the fields in the form and their part of a request.

import { checks, choice, number, text } from "./controls.js";

const FORMAT = "safetensors";
const GGUF_TYPE = "q8_0";
const LAYOUTS = [
  ["uniform", "the same in every layer"],
  ["per_layer", "one for each layer; needs a rank across all layers"]
];

/** The fields; `schemas` of the contract have the formats and the precisions. */
export function outputFields(schemas, values) {
  return [
    checks("output.formats", "Formats", schemas.Format.enum, values, {
      byDefault: FORMAT,
      hint: "gguf is for llama.cpp, mlx for mlx-lm; indices are kilobytes, from which the checkpoint can be made"
    }),
    checks("output.gguf_types", "Types of the GGUF files", schemas.GgufType.enum, values, { byDefault: GGUF_TYPE }),
    checks("output.quantise", "Quantised copies", schemas.Precision.enum, values, {
      hint: "each is stored beside the checkpoint and measured on the task; w8a8 and w4a16 are for vLLM"
    }),
    choice("output.layout", "Widths", LAYOUTS, values),
    number("output.round_to", "Widths are multiples of", values, {
      min: 1,
      placeholder: "64",
      hint: "256 suits GGUF K-quants, 128 GPU kernels"
    }),
    text("output.uri", "Push the model to", values, { hint: "s3://, gs:// or az:// prefix, or hf://owner/name" })
  ];
}

/** Show the types of GGUF files where these are asked for. */
export function showOutput(form) {
  const asked = form.querySelector('[name="output.formats"][value="gguf"]').checked;
  form.querySelector('[name="output.gguf_types"]').closest(".checks").hidden = !asked;
}

/** The `output` of the request, from the fields of the form; lists as their defaults are left out. */
export function composeOutput(value, number, checked) {
  const formats = checked("output.formats");
  const types = checked("output.gguf_types");
  return {
    round_to: number(value("output.round_to")),
    layout: value("output.layout"),
    uri: value("output.uri"),
    quantise: checked("output.quantise"),
    ...(String(formats) === FORMAT ? {} : { formats }),
    ...(String(types) === GGUF_TYPE || !formats.includes("gguf") ? {} : { gguf_types: types })
  };
}

/** The fields of the form, from the `output` of a request without defaults. */
export const fieldsOfOutput = (output) =>
  Object.fromEntries(Object.entries(output).map(([name, member]) => [`output.${name}`, member]));
