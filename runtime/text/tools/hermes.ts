// Calls as Qwen and the Hermes models write them: a JSON object with `name` and `arguments` between the tags <tool_call>.
import type { ToolFormat } from "./format.ts";
import { JsonMembers, textOf } from "./json-members.ts";
import { type CallBody, MarkedCalls } from "./marked-calls.ts";

const open = "<tool_call>";
const close = "</tool_call>";
/** The name of the member, in a text with or without escaped quotes. */
const quotedArguments = /"arguments\\?"/;

/** Characters of a name that is written as JSON; a longer one is none, and is not looked at again with every token. */
const nameCharactersMax = 512;
/** A name is known with its last quote, whatever else the model writes behind it. */
const firstText = /^\s*"(?:[^"\\]|\\.)*"/s;

class ObjectBody implements CallBody {
  #rawName = "";
  #arguments = "";
  #name: string | undefined;
  #told = false;
  /** Some of the arguments was told. */
  #begun = false;
  readonly #members = new JsonMembers((key, raw) => {
    if (key === "name") this.#readName(raw);
    else if (key === "arguments") this.#arguments += raw;
  });

  get named(): boolean {
    return this.#name !== undefined;
  }

  push(text: string): number {
    return this.#members.push(text);
  }

  /** However the text was cut: the name that some pieces of a text show is the one that the whole shows. */
  #readName(raw: string): void {
    if (this.#name !== undefined || this.#rawName.length === nameCharactersMax) return;
    this.#rawName = (this.#rawName + raw).slice(0, nameCharactersMax);
    const first = firstText.exec(this.#rawName)?.[0];
    if (first !== undefined) this.#name = textOf(first);
  }

  take(): { readonly name?: string; readonly arguments?: string } {
    if (this.#name === undefined) return {}; // arguments that came first wait for it
    const name = this.#told ? {} : { name: this.#name };
    this.#told = true;
    const given = this.#begun ? this.#arguments : this.#arguments.trimStart();
    // White space at the end may be the object's own, after the arguments.
    const certain = given.trimEnd();
    this.#arguments = given.slice(certain.length);
    const none = certain === "" && !this.#begun && this.#members.state === "ended"; // of a tool without parameters, as it may be called
    if (certain === "" && !none) return name;
    this.#begun = true;
    return { ...name, arguments: none ? "{}" : certain };
  }
}

export const hermes: Required<ToolFormat> = {
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
  reader: () => new MarkedCalls({ open, close, body: () => new ObjectBody() }),
};
