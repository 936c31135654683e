// Llama 3's calls: the whole answer is a JSON object with `name` and `parameters`. Models often omit the control token before it.
import { BareCalls } from "./bare-calls.ts";
import type { ToolFormat } from "./format.ts";
import { ObjectBody } from "./object-body.ts";

const trigger = '{"name": "';
/** Quotes may be escaped. */
const quotedParameters = /"parameters\\?"/;

export const llama: Required<Omit<ToolFormat, "marks" | "callId">> = {
  writtenIn: (template) => template.includes("<|start_header_id|>") && quotedParameters.test(template),
  arguments: "value",
  noContent: "",
  texts: {
    begin: "",
    end: "",
    between: "; ",
    before: (name) => `{"name": ${JSON.stringify(name)}, "parameters": `,
    after: "}",
    trigger,
    single: true, // templates refuse turns with more
  },
  // A JSON answer may have a name, too.
  reader: () =>
    new BareCalls({
      triggers: [trigger],
      atOnce: true,
      apart: /[\s;]/,
      body: () => new ObjectBody({ arguments: ["parameters", "arguments"], required: true }),
    }),
};
