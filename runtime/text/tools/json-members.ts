// Reads a JSON object incrementally and passes on its members' raw text, so that arguments reach the client early.

const space = /\s/;

export class JsonMembers {
  readonly #onMember: (key: string, raw: string) => void;
  #depth = 0;
  #inString = false;
  #escaped = false;
  #key: string | undefined;
  #member: string | undefined;
  #state: "before" | "inside" | "ended" | "broken" = "before";

  /** `onMember` gets raw value text in pieces, by key. */
  constructor(onMember: (key: string, raw: string) => void) {
    this.#onMember = onMember;
  }

  get state(): "before" | "inside" | "ended" | "broken" {
    return this.#state;
  }

  /** Returns the characters taken, which may belong to the object. */
  push(text: string): number {
    let from = 0;
    let at = 0;
    for (; at < text.length && this.#state !== "ended" && this.#state !== "broken"; at++) {
      const before = this.#member;
      this.#take(text[at] as string);
      if (this.#member === before) continue;
      if (before !== undefined) this.#tell(before, text.slice(from, at));
      from = at + 1;
    }
    const taken = this.#state === "broken" ? Math.max(0, at - 1) : at; // excludes the character that broke it
    if (this.#member !== undefined) this.#tell(this.#member, text.slice(from, taken));
    return taken;
  }

  #tell(key: string, raw: string): void {
    if (raw !== "") this.#onMember(key, raw);
  }

  #take(character: string): void {
    if (this.#inString) this.#string(character);
    else if (this.#state === "before") this.#start(character);
    else if (this.#member === undefined) this.#between(character);
    else this.#value(character);
  }

  #start(character: string): void {
    if (character === "{") {
      this.#state = "inside";
      this.#depth = 1;
    } else if (!space.test(character)) this.#state = "broken";
  }

  #string(character: string): void {
    if (this.#key !== undefined) this.#key += character;
    if (this.#escaped) this.#escaped = false;
    else if (character === "\\") this.#escaped = true;
    else if (character === '"') this.#inString = false;
  }

  /** Keys, colons and commas. */
  #between(character: string): void {
    if (character === '"' && this.#key === undefined) {
      this.#key = character;
      this.#inString = true;
    } else if (character === ":" && this.#key !== undefined) {
      this.#member = textOf(this.#key);
      this.#key = undefined;
      if (this.#member === undefined) this.#state = "broken";
    } else if (character === "}" && this.#key === undefined) this.#state = "ended";
    else if (character !== "," && !space.test(character)) this.#state = "broken";
  }

  #value(character: string): void {
    if (character === '"') this.#inString = true;
    else if (character === "{" || character === "[") this.#depth++;
    else if (this.#depth > 1 && (character === "}" || character === "]")) this.#depth--;
    else if (this.#depth === 1 && character === ",") this.#member = undefined;
    else if (this.#depth === 1 && character === "}") {
      this.#member = undefined;
      this.#state = "ended";
    } else if (character === "]") this.#state = "broken";
  }
}

/** Undefined unless it is a JSON string. */
export function textOf(raw: string): string | undefined {
  try {
    const value: unknown = JSON.parse(raw);
    return typeof value === "string" ? value : undefined;
  } catch {
    return undefined;
  }
}
