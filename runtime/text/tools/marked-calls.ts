// Reads calls between marks in an answer; a call that never gets a name becomes text again.
import { heldLength } from "../stop-text.ts";
import type { CallDelta, CallReader, CallsPiece } from "./tool-format.ts";

export interface CallBody {
  /** Returns the characters taken; fewer than all once the body is over. */
  push(text: string): number;
  /** New since the last call. */
  take(): { readonly name?: string; readonly arguments?: string };
  readonly named: boolean;
}

interface Marks {
  readonly open: string;
  readonly close: string;
  /** Marks around all calls, if any. */
  readonly section?: { readonly begin: string; readonly end: string };
  body(): CallBody;
}

interface Parsed {
  text: string;
  readonly calls: CallDelta[];
}

export class MarkedCalls implements CallReader {
  readonly #marks: Marks;
  #at: "text" | "section" | "call" | "closing" = "text";
  #held = "";
  #body: CallBody | undefined;
  /** Raw text of a call without a name yet. */
  #raw = "";
  #calls = 0;
  /** True if only white space came since the last call. */
  #justCalled = false;

  constructor(marks: Marks) {
    this.#marks = marks;
  }

  push(text: string): CallsPiece {
    return this.#read(this.#held + text, false);
  }

  end(): CallsPiece {
    const piece = this.#read(this.#held, true);
    const unnamed = this.#at === "call" && this.#body?.named === false ? this.#raw : "";
    return { text: piece.text + unnamed, calls: piece.calls };
  }

  /** Drops white space that only separates calls. */
  #free(text: string): string {
    const parsed = this.#justCalled ? text.trimStart() : text;
    if (parsed !== "") this.#justCalled = false;
    return parsed;
  }

  #read(given: string, last: boolean): CallsPiece {
    const parsed: Parsed = { text: "", calls: [] };
    let rest = given;
    for (;;) {
      const [length, at] = [rest.length, this.#at];
      rest = at === "call" ? this.#inCall(rest, parsed) : this.#toMark(rest, parsed, last);
      if (rest === "" || (rest.length === length && this.#at === at)) break;
    }
    this.#held = rest;
    return parsed;
  }

  /** The rest may be a partial mark. */
  #toMark(rest: string, parsed: Parsed, last: boolean): string {
    const { open, close, section } = this.#marks;
    const next = { text: [section?.begin ?? open], section: [open, section?.end ?? open], closing: [close], call: [] };
    const marks = next[this.#at];
    const found = firstOf(rest, marks);
    const end = found?.at ?? rest.length - (last ? 0 : heldLength(rest, marks));
    if (this.#at === "text") parsed.text += this.#free(rest.slice(0, end));
    if (found === undefined) return rest.slice(end);
    this.#passed(found.mark);
    return rest.slice(found.at + found.mark.length);
  }

  #passed(mark: string): void {
    const { open, section } = this.#marks;
    if (mark === open) {
      this.#at = "call";
      this.#body = this.#marks.body();
      this.#raw = open;
    } else if (mark === section?.begin) this.#at = "section";
    else if (mark === section?.end) this.#at = "text";
    else this.#at = section ? "section" : "text";
  }

  #inCall(rest: string, parsed: Parsed): string {
    const body = this.#body as CallBody;
    const taken = body.push(rest);
    const delta = body.take();
    if (delta.name !== undefined || (body.named && delta.arguments !== undefined)) parsed.calls.push({ index: this.#calls, ...delta });
    this.#raw = body.named ? "" : this.#raw + rest.slice(0, taken);
    if (taken === rest.length) return "";
    if (body.named) {
      this.#calls++;
      this.#justCalled = true;
      this.#at = "closing";
    } else {
      this.#at = "text";
      parsed.text += this.#free(this.#raw); // it was no call
      this.#raw = "";
    }
    return rest.slice(taken);
  }
}

export function firstOf(text: string, marks: readonly string[]): { readonly at: number; readonly mark: string } | undefined {
  const found = marks.map((mark) => ({ at: text.indexOf(mark), mark })).filter(({ at }) => at >= 0);
  return found.length === 0 ? undefined : found.reduce((least, each) => (each.at < least.at ? each : least));
}
