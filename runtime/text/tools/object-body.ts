// A call that is a JSON object with the tool's name and arguments as members, in any order.
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
