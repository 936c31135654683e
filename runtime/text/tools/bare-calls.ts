// Reads calls that are JSON objects without end marks; an object that proves to be no call becomes text again.
import { heldLength } from "../stop-text.ts";
import { type CallBody, firstOf } from "./marked-calls.ts";
import type { CallDelta, CallReader, CallsPiece } from "./tool-format.ts";

interface BareForm {
  /** Texts that begin a call; a brace in one belongs to the call. */
  readonly triggers: readonly string[];
  /** The first call may differ from the triggers. */
  readonly atOnce: boolean;
  /** Characters allowed before, between and after calls. */
  readonly apart: RegExp;
  body(): CallBody;
}

interface Parsed {
  text: string;
  readonly calls: CallDelta[];
}

export class BareCalls implements CallReader {
  readonly #form: BareForm;
  #at: "text" | "apart" | "call";
  /** A possible trigger prefix, or text that separates calls. */
  #held = "";
  #body: CallBody | undefined;
  #calls = 0;
  /** True if only separators came since the last call. */
  #justCalled = false;

  constructor(form: BareForm) {
    this.#form = form;
    this.#at = form.atOnce ? "apart" : "text";
  }

  push(text: string): CallsPiece {
    const parsed: Parsed = { text: "", calls: [] };
    let rest = text;
    while (rest !== "") rest = this.#step(rest, parsed);
    return parsed;
  }

  end(): CallsPiece {
    const spare = this.#at === "call" ? this.#body?.named === true : this.#at === "apart" && this.#justCalled;
    const text = spare ? "" : this.#held;
    this.#held = "";
    return { text, calls: [] };
  }

  #step(rest: string, parsed: Parsed): string {
    if (this.#at === "text") return this.#toTrigger(rest, parsed);
    return this.#at === "call" ? this.#inCall(rest, parsed) : this.#toCall(rest, parsed);
  }

  #toTrigger(given: string, parsed: Parsed): string {
    const { triggers } = this.#form;
    const rest = this.#held + given;
    const found = firstOf(rest, triggers);
    if (found === undefined) {
      const end = rest.length - heldLength(rest, triggers);
      parsed.text += rest.slice(0, end);
      this.#held = rest.slice(end);
      return "";
    }
    const { at, mark } = found;
    const brace = mark.indexOf("{");
    const before = brace < 0 ? mark.length : brace;
    parsed.text += rest.slice(0, at);
    this.#held = rest.slice(at, at + before);
    this.#justCalled = false;
    this.#at = "apart";
    return rest.slice(at + before);
  }

  #toCall(rest: string, parsed: Parsed): string {
    let end = 0;
    while (end < rest.length && this.#form.apart.test(rest[end] as string)) end++;
    this.#held += rest.slice(0, end);
    if (end === rest.length) return "";
    if (rest[end] === "{") {
      this.#at = "call";
      this.#body = this.#form.body();
      return rest.slice(end);
    }
    this.#at = "text";
    if (!this.#justCalled) parsed.text += this.#held;
    this.#held = "";
    return rest.slice(end);
  }

  #inCall(rest: string, parsed: Parsed): string {
    const body = this.#body as CallBody;
    const taken = body.push(rest);
    const delta = body.take();
    if (delta.name !== undefined || (body.named && delta.arguments !== undefined)) parsed.calls.push({ index: this.#calls, ...delta });
    this.#held = body.named ? "" : this.#held + rest.slice(0, taken);
    if (taken === rest.length) return "";
    if (body.named) {
      this.#calls++;
      this.#justCalled = true;
      this.#at = "apart";
    } else {
      parsed.text += this.#held; // it was no call
      this.#held = "";
      this.#at = "text";
    }
    return rest.slice(taken);
  }
}
