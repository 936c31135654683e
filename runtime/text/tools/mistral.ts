// Mistral's calls: a list of JSON objects with `name` and `arguments` after [TOOL_CALLS], which a constrained answer omits.
import { BareCalls } from "./bare-calls.ts";
import type { ToolFormat } from "./format.ts";
import { ObjectBody } from "./object-body.ts";

const mark = "[TOOL_CALLS]";
const trigger = '[{"name": "';
/** Templates refuse other lengths. */
const idLength = 9;

export const mistral: Required<ToolFormat> = {
  // Later models write the name before [ARGS].
  writtenIn: (template) => template.includes(mark) && !template.includes("[ARGS]"),
  arguments: "value",
  noContent: "",
  marks: [mark],
  callId: (id) =>
    id
      .replaceAll(/[^a-zA-Z0-9]/g, "")
      .slice(-idLength)
      .padStart(idLength, "0"),
  texts: {
    begin: "[",
    end: "]",
    between: ", ",
    before: (name) => `{"name": ${JSON.stringify(name)}, "arguments": `,
    after: "}",
    trigger,
  },
  reader: () =>
    new BareCalls({
      triggers: [mark, trigger],
      atOnce: false,
      apart: /[\s,[\]]/,
      body: () => new ObjectBody({ arguments: ["arguments"], required: true }),
    }),
};
