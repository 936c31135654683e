// The bodies of calls: a JSON object with name and arguments as members in any order, or arguments behind a head that holds the name.
import { JsonMembers, textOf } from "./json-members.ts";
import type { CallBody } from "./marked-calls.ts";

interface Members {
  /** Names of the arguments member; the first to come counts. */
  readonly arguments: readonly string[];
  /** Some formats have nothing but arguments that distinguishes a call from a JSON answer. */
  readonly required: boolean;
}

/** A longer raw name is invalid. */
const nameCharactersMax = 512;
/** The name ends with its last quote. */
const firstText = /^\s*"(?:[^"\\]|\\.)*"/s;

export class ObjectBody implements CallBody {
  readonly #required: boolean;
  readonly #members: JsonMembers;
  #source: string | undefined;
  #rawName = "";
  #arguments = "";
  #name: string | undefined;
  #named = false;
  #begun = false;

  constructor({ arguments: names, required }: Members) {
    this.#required = required;
    this.#members = new JsonMembers((key, raw) => {
      if (key === "name") this.#readName(raw);
      if (this.#source === undefined && names.includes(key)) this.#source = key;
      if (key === this.#source) this.#arguments += raw;
    });
  }

  get named(): boolean {
    return this.#name !== undefined && (this.#source !== undefined || !this.#required);
  }

  push(text: string): number {
    return this.#members.push(text);
  }

  /** The result does not depend on how the text was split. */
  #readName(raw: string): void {
    if (this.#name !== undefined || this.#rawName.length === nameCharactersMax) return;
    this.#rawName = (this.#rawName + raw).slice(0, nameCharactersMax);
    const first = firstText.exec(this.#rawName)?.[0];
    if (first !== undefined) this.#name = textOf(first);
  }

  take(): { readonly name?: string; readonly arguments?: string } {
    if (this.#name === undefined || !this.named) return {}; // arguments that came first wait for the name
    const name = this.#named ? {} : { name: this.#name };
    this.#named = true;
    const given = this.#begun ? this.#arguments : this.#arguments.trimStart();
    // Trailing white space may belong to the object.
    const certain = given.trimEnd();
    this.#arguments = given.slice(certain.length);
    const none = certain === "" && !this.#begun && this.#members.state === "ended"; // a call of a tool without parameters
    if (certain === "" && !none) return name;
    this.#begun = true;
    return { ...name, arguments: none ? "{}" : certain };
  }
}

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
