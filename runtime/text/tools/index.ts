// The registry of tool call formats: a row says which templates write it, what they take, the text around a call, and how calls are read.
import { BareCalls } from "./bare-calls.ts";
import { HeadedBody, ObjectBody } from "./call-bodies.ts";
import { MarkedCalls } from "./marked-calls.ts";
import type { CallTexts, ToolFormat } from "./tool-format.ts";

type TextFormat = Required<Omit<ToolFormat, "marks" | "callId">>;

/** In a template quotes may be escaped. */
const quotes = (template: string, member: string): boolean => new RegExp(`"${member}\\\\?"`).test(template);
const objectUpTo = (member: string) => (name: string) => `{"name": ${JSON.stringify(name)}, "${member}": `;

const [tag, endTag] = ["<tool_call>", "</tool_call>"];

/** Qwen and Hermes: a JSON object with `name` and `arguments` in tags. */
export const hermes: TextFormat = {
  writtenIn: (template) => template.includes(tag) && quotes(template, "arguments") && !template.includes("<function="),
  arguments: "value",
  noContent: "",
  texts: {
    begin: "",
    end: "",
    between: "\n",
    before: (name) => `${tag}\n${objectUpTo("arguments")(name)}`,
    after: `}\n${endTag}`,
    trigger: tag,
  },
  reader: () => new MarkedCalls({ open: tag, close: endTag, body: () => new ObjectBody({ arguments: ["arguments"], required: false }) }),
};

const section = { begin: "<｜tool▁calls▁begin｜>", end: "<｜tool▁calls▁end｜>" };
const [open, close, separator, fence] = ["<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>", "```json"];

interface Headed extends Pick<CallTexts, "between" | "before" | "after"> {
  nameIn(head: string): string;
}

/** DeepSeek: calls in a marked section, each with a head before its arguments. */
const deepseek = (fenced: boolean, { between, before, after, nameIn }: Headed): TextFormat => ({
  writtenIn: (template) => template.includes(section.begin) && template.includes(fence) === fenced,
  arguments: "json",
  noContent: null,
  texts: { begin: section.begin, end: section.end, between, before, after, trigger: section.begin },
  reader: () => new MarkedCalls({ open, close, section, body: () => new HeadedBody(close, nameIn) }),
});

/** The name follows the separator on its own line, arguments stand in a code block. */
export const deepseekV3 = deepseek(true, {
  between: "\n",
  before: (name) => `${open}function${separator}${name}\n${fence}\n`,
  after: `\n\`\`\`${close}`,
  nameIn: (head) => head.split(separator)[1]?.split("\n")[0]?.trim() ?? "",
});

/** The name precedes the separator. */
export const deepseekV31 = deepseek(false, {
  between: "",
  before: (name) => `${open}${name}${separator}`,
  after: close,
  nameIn: (head) => (head.includes(separator) ? (head.split(separator)[0]?.trim() ?? "") : ""),
});

/** gpt-oss: messages to functions.NAME in a channel (channels.ts). Its marks are no text, so decoding cannot be constrained to a call. */
export const harmony: ToolFormat = {
  writtenIn: (template) => template.includes("<|channel|>") && template.includes("functions."),
  arguments: "value",
  noContent: "",
};

const objectTrigger = '{"name": "';

/** Llama 3: the whole answer is a JSON object with `name` and `parameters`. Models often omit the control token before it. */
export const llama: TextFormat = {
  writtenIn: (template) => template.includes("<|start_header_id|>") && quotes(template, "parameters"),
  arguments: "value",
  noContent: "",
  texts: {
    begin: "",
    end: "",
    between: "; ",
    before: objectUpTo("parameters"),
    after: "}",
    trigger: objectTrigger,
    single: true, // templates refuse turns with more
  },
  // A JSON answer may have a name, too.
  reader: () =>
    new BareCalls({
      triggers: [objectTrigger],
      atOnce: true,
      apart: /[\s;]/,
      body: () => new ObjectBody({ arguments: ["parameters", "arguments"], required: true }),
    }),
};

const [listMark, listTrigger] = ["[TOOL_CALLS]", `[${objectTrigger}`];
/** Mistral's templates refuse ids of other lengths. */
const idLength = 9;

/** Mistral: a list of JSON objects with `name` and `arguments` after a mark, which a constrained answer omits. */
export const mistral: Required<ToolFormat> = {
  // Later models write the name before [ARGS].
  writtenIn: (template) => template.includes(listMark) && !template.includes("[ARGS]"),
  arguments: "value",
  noContent: "",
  marks: [listMark],
  callId: (id) =>
    id
      .replaceAll(/[^a-zA-Z0-9]/g, "")
      .slice(-idLength)
      .padStart(idLength, "0"),
  texts: { begin: "[", end: "]", between: ", ", before: objectUpTo("arguments"), after: "}", trigger: listTrigger },
  reader: () =>
    new BareCalls({
      triggers: [listMark, listTrigger],
      atOnce: false,
      apart: /[\s,[\]]/,
      body: () => new ObjectBody({ arguments: ["arguments"], required: true }),
    }),
};

const formats: readonly ToolFormat[] = [hermes, deepseekV3, deepseekV31, harmony, llama, mistral];

/** Undefined where the template takes no tools, or its call format is unknown. */
export function toolFormatOf(template: string): ToolFormat | undefined {
  return template.includes("tools") ? formats.find((format) => format.writtenIn(template)) : undefined;
}
