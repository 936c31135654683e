// A call whose head holds the tool's name before the arguments, which are a JSON object.
import { JsonMembers } from "./json-members.ts";
import type { CallBody } from "./marked-calls.ts";

/** Includes the name. */
const headCharactersMax = 512;

export class HeadedBody implements CallBody {
  readonly #close: string;
  readonly #nameIn: (head: string) => string;
  #head = "";
  #name: string | undefined;
  #named = false;
  #arguments = "";
  #depth = new JsonMembers(() => {});

  /** `close` ends a head that has no name. */
  constructor(close: string, nameIn: (head: string) => string) {
    this.#close = close;
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
    const closed = whole.indexOf(this.#close);
    const over = Math.min(headCharactersMax, closed < 0 ? Number.POSITIVE_INFINITY : closed + this.#close.length);
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
