// gpt-oss's calls: messages to functions.NAME in a channel (channels.ts). Control tokens mark them, so decoding cannot be constrained to a
// call.
import type { ToolFormat } from "./format.ts";

export const harmony: ToolFormat = {
  writtenIn: (template) => template.includes("<|channel|>") && template.includes("functions."),
  arguments: "value",
  noContent: "",
};
