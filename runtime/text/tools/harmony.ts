// Calls as gpt-oss writes them: messages to functions.NAME in a channel (channels.ts). Their marks are control tokens, which no text has,
// so an answer cannot be held to a call, and they are read with the channels.
import type { ToolFormat } from "./format.ts";

export const harmony: ToolFormat = {
  writtenIn: (template) => template.includes("<|channel|>") && template.includes("functions."),
  arguments: "value",
  noContent: "",
};
