// A reader of calls that are JSON objects in the text of an answer with nothing behind them that marks their end. What begins as one and
// comes to be none is given back as text. Pure; one per answer.
import { heldLength } from "../stop-text.ts";
import type { CallDelta, CallReader, CallsPiece } from "./format.ts";
import { type CallBody, firstOf } from "./marked-calls.ts";

interface BareForm {
  /** Texts at which calls begin, wherever they stand; of one that has a brace that is the first call's own. */
  readonly triggers: readonly string[];
  /** An answer may begin with a call that is written otherwise than its trigger. */
  readonly atOnce: boolean;
  /** Characters that may stand before, between and behind calls. */
  readonly apart: RegExp;
  body(): CallBody;
}

/** What is certain so far of a piece. */
interface Parsed {
  text: string;
  readonly calls: CallDelta[];
}

export class BareCalls implements CallReader {
  readonly #form: BareForm;
  #at: "text" | "apart" | "call";
  /** In text, what may be the beginning of a trigger; else what is text unless a call follows. */
  #held = "";
  #body: CallBody | undefined;
  #calls = 0;
  /** Nothing but what sets calls apart came since the last one. */
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
