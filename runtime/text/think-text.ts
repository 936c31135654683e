// Splits off reasoning between <think> and </think>.
import type { TextPiece, TokenDecoder } from "./stop-text.ts";
import type { CallDelta } from "./tools/tool-format.ts";

export interface ThoughtTokens {
  readonly open: number;
  readonly close: number;
}

/** Undefined where the vocabulary lacks one. */
export function thoughtTokens(idOf: (content: string) => number | undefined): ThoughtTokens | undefined {
  const [open, close] = [idOf("<think>"), idOf("</think>")];
  return open === undefined || close === undefined ? undefined : { open, close };
}

/** White-space tokens that a template may write after a mark. */
const blanksMax = 8;
const blank = (bytes: Uint8Array): boolean => new TextDecoder().decode(bytes).trim() === "";

/** Templates of models that always think open the reasoning in the prompt. */
export function opensThoughts(prompt: readonly number[], { open }: ThoughtTokens, piece: (id: number) => Uint8Array): boolean {
  const end = prompt.slice(-blanksMax).findLast((id) => id === open || !blank(piece(id)));
  return end === open;
}

interface Inner {
  readonly length: number;
  push(id: number): TextPiece & { readonly calls?: readonly CallDelta[] };
  end(): TextPiece & { readonly calls?: readonly CallDelta[] };
}

type ThinkPiece = ReturnType<Inner["push"]> & { readonly reasoning: string };

interface ThinkOptions {
  readonly tokens: ThoughtTokens;
  readonly decoder: TokenDecoder;
  readonly inner: Inner;
  /** The prompt has opened the reasoning. */
  readonly opened: boolean;
  piece(id: number): Uint8Array;
}

const nothing = { text: "", stopped: false } as const;

export class ThinkText {
  readonly #options: ThinkOptions;
  /** "before" and "behind" the reasoning only white space came. */
  #at: "before" | "thoughts" | "behind" | "content";
  /** White space before the end of reasoning is dropped. */
  #held = "";
  #thought = false;

  constructor(options: ThinkOptions) {
    this.#options = options;
    this.#at = options.opened ? "thoughts" : "before";
  }

  get length(): number {
    return this.#options.inner.length;
  }

  get inThoughts(): boolean {
    return this.#at === "thoughts";
  }

  push(id: number): ThinkPiece {
    const { tokens, decoder, inner, piece } = this.#options;
    if (this.#at === "thoughts") {
      if (id !== tokens.close) return { ...nothing, reasoning: this.#thoughts(decoder.push(id)) };
      this.#at = "behind";
      return { ...nothing, reasoning: this.#thoughts(decoder.flush()) };
    }
    if (this.#at === "before" && id === tokens.open) {
      this.#at = "thoughts";
      return { ...nothing, reasoning: "" };
    }
    if (this.#at === "before" && !blank(piece(id))) this.#at = "content";
    return this.#shown(inner.push(id));
  }

  end(): ThinkPiece {
    const { decoder, inner } = this.#options;
    const reasoning = this.#at === "thoughts" ? this.#thoughts(decoder.flush()) : "";
    return { ...this.#shown(inner.end()), reasoning };
  }

  #thoughts(text: string): string {
    const given = this.#thought ? this.#held + text : text.trimStart();
    const certain = given.trimEnd();
    this.#held = given.slice(certain.length);
    if (certain !== "") this.#thought = true;
    return certain;
  }

  #shown(given: ReturnType<Inner["push"]>): ThinkPiece {
    if (this.#at !== "behind") return { ...given, reasoning: "" };
    const text = given.text.trimStart();
    if (text !== "" || (given.calls ?? []).length > 0) this.#at = "content";
    return { ...given, text, reasoning: "" };
  }
}
