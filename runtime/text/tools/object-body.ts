// The inside of a call that is a JSON object: the tool's name and its arguments are members of it, in any order, and whatever else it has
// counts for nothing. Pure; one per call.
import { JsonMembers, textOf } from "./json-members.ts";
import type { CallBody } from "./marked-calls.ts";

interface Members {
  /** The names that the member with the arguments may have; the first that comes counts. */
  readonly arguments: readonly string[];
  /** An object without arguments is no call, where nothing else tells a call from an answer in JSON. */
  readonly required: boolean;
}

/** Characters of a name that is written as JSON; a longer one is none, and is not looked at again with every token. */
const nameCharactersMax = 512;
/** A name is known with its last quote, whatever else the model writes behind it. */
const firstText = /^\s*"(?:[^"\\]|\\.)*"/s;

export class ObjectBody implements CallBody {
  readonly #required: boolean;
  readonly #members: JsonMembers;
  /** The member that the arguments come in; undefined before it. */
  #source: string | undefined;
  #rawName = "";
  #arguments = "";
  #name: string | undefined;
  #named = false;
  /** Some of the arguments was told. */
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

  /** However the text was cut: the name that some pieces of a text show is the one that the whole shows. */
  #readName(raw: string): void {
    if (this.#name !== undefined || this.#rawName.length === nameCharactersMax) return;
    this.#rawName = (this.#rawName + raw).slice(0, nameCharactersMax);
    const first = firstText.exec(this.#rawName)?.[0];
    if (first !== undefined) this.#name = textOf(first);
  }

  take(): { readonly name?: string; readonly arguments?: string } {
    if (this.#name === undefined || !this.named) return {}; // arguments that came first wait for it
    const name = this.#named ? {} : { name: this.#name };
    this.#named = true;
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
