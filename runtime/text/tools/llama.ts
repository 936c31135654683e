// Calls as Llama 3 writes them: a JSON object with `name` and `parameters` that is the answer, one to a turn. The control token before it
// shows in no text, and models leave it out as often as not.
import { BareCalls } from "./bare-calls.ts";
import type { ToolFormat } from "./format.ts";
import { ObjectBody } from "./object-body.ts";

const trigger = '{"name": "';
/** The name of the member, in a text with or without escaped quotes. */
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
  // An answer in JSON may have a name, too.
  reader: () =>
    new BareCalls({
      triggers: [trigger],
      atOnce: true,
      apart: /[\s;]/,
      body: () => new ObjectBody({ arguments: ["parameters", "arguments"], required: true }),
    }),
};
