// Calls of Qwen and Hermes: a JSON object with `name` and `arguments` in <tool_call> tags.
import type { ToolFormat } from "./format.ts";
import { MarkedCalls } from "./marked-calls.ts";
import { ObjectBody } from "./object-body.ts";

const open = "<tool_call>";
const close = "</tool_call>";
/** Quotes may be escaped. */
const quotedArguments = /"arguments\\?"/;

export const hermes: Required<Omit<ToolFormat, "marks" | "callId">> = {
  writtenIn: (template) => template.includes(open) && quotedArguments.test(template) && !template.includes("<function="),
  arguments: "value",
  noContent: "",
  texts: {
    begin: "",
    end: "",
    between: "\n",
    before: (name) => `${open}\n{"name": ${JSON.stringify(name)}, "arguments": `,
    after: `}\n${close}`,
    trigger: open,
  },
  reader: () => new MarkedCalls({ open, close, body: () => new ObjectBody({ arguments: ["arguments"], required: false }) }),
};
