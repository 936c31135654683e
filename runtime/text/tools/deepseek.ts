// DeepSeek's calls, in a marked section: V3 writes arguments in a code block after the name, V3.1 directly after it.
import type { CallTexts, ToolFormat } from "./format.ts";
import { JsonMembers } from "./json-members.ts";
import { type CallBody, MarkedCalls } from "./marked-calls.ts";

const section = { begin: "<｜tool▁calls▁begin｜>", end: "<｜tool▁calls▁end｜>" };
const open = "<｜tool▁call▁begin｜>";
const close = "<｜tool▁call▁end｜>";
const separator = "<｜tool▁sep｜>";
const fence = "```json";
/** Includes the name. */
const headCharactersMax = 512;

class HeadedBody implements CallBody {
  readonly #nameIn: (head: string) => string;
  #head = "";
  #name: string | undefined;
  #named = false;
  #arguments = "";
  #depth = new JsonMembers(() => {});

  constructor(nameIn: (head: string) => string) {
    this.#nameIn = nameIn;
  }

  get named(): boolean {
    return this.#name !== undefined;
  }

  push(text: string): number {
    const at = this.#name === undefined ? this.#toArguments(text) : 0;
    if (this.#name === undefined) return at;
    const taken = this.#depth.push(text.slice(at));
    this.#arguments += text.slice(at, at + taken);
    return at + taken;
  }

  /** Reads the head until the arguments begin, or until it proves invalid, however the text is split. */
  #toArguments(text: string): number {
    const before = this.#head.length;
    const whole = this.#head + text;
    const closed = whole.indexOf(close);
    const over = Math.min(headCharactersMax, closed < 0 ? Number.POSITIVE_INFINITY : closed + close.length);
    const begin = whole.indexOf("{");
    const end = Math.min(over, begin < 0 ? Number.POSITIVE_INFINITY : begin, whole.length);
    this.#head = whole.slice(0, end);
    const name = end === begin ? this.#nameIn(this.#head) : "";
    if (name !== "") this.#name = name;
    return Math.max(0, end - before);
  }

  take(): { readonly name?: string; readonly arguments?: string } {
    if (this.#name === undefined) return {};
    const name = this.#named ? {} : { name: this.#name };
    this.#named = true;
    const given = this.#arguments;
    this.#arguments = "";
    return given === "" ? name : { ...name, arguments: given };
  }
}

interface Words extends Pick<CallTexts, "between" | "before" | "after"> {
  nameIn(head: string): string;
}

const calls = ({ between, before, after, nameIn }: Words): Required<Pick<ToolFormat, "texts" | "reader">> => ({
  texts: { begin: section.begin, end: section.end, between, before, after, trigger: section.begin },
  reader: () => new MarkedCalls({ open, close, section, body: () => new HeadedBody(nameIn) }),
});

/** The name follows the separator, on its own line. */
export const deepseekV3: Required<Omit<ToolFormat, "marks" | "callId">> = {
  writtenIn: (template) => template.includes(section.begin) && template.includes(fence),
  arguments: "json",
  noContent: null,
  ...calls({
    between: "\n",
    before: (name) => `${open}function${separator}${name}\n${fence}\n`,
    after: `\n\`\`\`${close}`,
    nameIn: (head) => head.split(separator)[1]?.split("\n")[0]?.trim() ?? "",
  }),
};

/** The name precedes the separator. */
export const deepseekV31: Required<Omit<ToolFormat, "marks" | "callId">> = {
  writtenIn: (template) => template.includes(section.begin) && !template.includes(fence),
  arguments: "json",
  noContent: null,
  ...calls({
    between: "",
    before: (name) => `${open}${name}${separator}`,
    after: close,
    nameIn: (head) => (head.includes(separator) ? (head.split(separator)[0]?.trim() ?? "") : ""),
  }),
};
