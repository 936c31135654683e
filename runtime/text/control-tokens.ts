// Control tokens, which count where the template writes them and never where a user does (DECISIONS.md 1).
import type { AddedToken, TokenizerJson } from "./tokenizer-files.ts";

/** Two high surrogates in a row never occur in well-formed text, so they make unambiguous placeholders. */
const surrogate = 0xd800;
const surrogates = 1024;
const placeholderPattern = /[\uD800-\uDBFF]{2}/g;
/** A mark has signs at both ends; words and spaces are content. */
const markPattern = /^[^\p{L}\p{N}\s](?:.*[^\p{L}\p{N}\s])?$/su;

interface Node {
  readonly next: Map<string, Node>;
  token?: AddedToken;
}

export class ControlTokens {
  readonly units: ReadonlySet<string>;
  readonly #placeholders = new Map<string, string>();
  readonly #contents = new Map<string, string>();
  readonly #root: Node = { next: new Map() };

  /** `added`: tokens that are cut out first, in order; `control`: ids. */
  constructor(added: readonly AddedToken[], control: ReadonlySet<number>) {
    const units = new Set<string>();
    for (const token of added.filter(({ content }) => content !== "")) {
      this.#plant(token);
      if (!control.has(token.id) || this.#placeholders.has(token.content)) continue;
      const index = this.#placeholders.size;
      const placeholder = String.fromCharCode(surrogate + Math.floor(index / surrogates), surrogate + (index % surrogates));
      this.#placeholders.set(token.content, placeholder);
      this.#contents.set(placeholder, token.content);
      for (const unit of token.content.split("")) units.add(unit);
    }
    this.units = units;
  }

  /**
   * Replaces control tokens for which `counts` is true by placeholders, the longest at each place. Lone surrogates become U+FFFD, as in
   * UTF-8.
   */
  mark(text: string, counts: (from: number, to: number) => boolean = () => true): string {
    const whole = text.toWellFormed();
    let out = "";
    let done = 0;
    for (let at = 0; at < whole.length; ) {
      const found = this.#longest(whole, at, counts);
      if (found === undefined) {
        at++;
        continue;
      }
      const placeholder = this.#placeholders.get(found);
      if (placeholder !== undefined) {
        out += whole.slice(done, at) + placeholder;
        done = at + found.length;
      }
      at += found.length;
    }
    return out + whole.slice(done);
  }

  unmark(text: string): string {
    return text.replace(placeholderPattern, (placeholder) => this.#contents.get(placeholder) ?? placeholder);
  }

  /** The added tokens that a text contains. */
  in(text: string): ReadonlySet<string> {
    const found = new Set<string>();
    for (let at = 0; at < text.length; ) {
      const content = this.#longest(text, at, () => true);
      if (content !== undefined) found.add(content);
      at += content?.length ?? 1;
    }
    return found;
  }

  /** Knows control tokens by placeholders only, so that no ordinary text yields their ids. */
  disguise(json: TokenizerJson): TokenizerJson {
    const { model } = json;
    const renamed = (text: string) => this.#placeholders.get(text) ?? text;
    const vocab = Array.isArray(model.vocab)
      ? model.vocab.map(([text, score]): [string, number] => [renamed(text), score])
      : Object.fromEntries(Object.entries(model.vocab).map(([text, id]) => [renamed(text), id]));
    const leads = (merge: string | readonly [string, string]) =>
      this.#placeholders.has(typeof merge === "string" ? merge.replace(" ", "") : merge.join(""));
    return {
      ...json,
      model: {
        ...model,
        vocab,
        ...(model.merges === undefined ? {} : { merges: model.merges.filter((merge) => !leads(merge)) }),
        ...(typeof model.unk_token === "string" ? { unk_token: renamed(model.unk_token) } : {}),
      },
      added_tokens: json.added_tokens.map((token) =>
        this.#placeholders.has(token.content) ? { ...token, content: renamed(token.content), normalized: false } : token,
      ),
      post_processor: renameAll(json.post_processor, renamed),
    };
  }

  disguiseConfig<T extends object>(config: T): T {
    return renameAll(config, (text) => this.#placeholders.get(text) ?? text) as T;
  }

  #plant(token: AddedToken): void {
    let node = this.#root;
    for (const unit of token.content.split("")) {
      const next = node.next.get(unit) ?? { next: new Map() };
      node.next.set(unit, next);
      node = next;
    }
    node.token = token;
  }

  /** A control token only where it counts. */
  #longest(text: string, from: number, counts: (from: number, to: number) => boolean): string | undefined {
    let longest: string | undefined;
    let node: Node | undefined = this.#root;
    for (let at = from; node !== undefined && at <= text.length; at++) {
      const content = node.token?.content;
      if (content !== undefined && (!this.#placeholders.has(content) || counts(from, at))) longest = content;
      node = node.next.get(text[at] ?? "");
    }
    return longest;
  }
}

export function isMark({ content }: AddedToken): boolean {
  return markPattern.test(content);
}

function renameAll(value: unknown, renamed: (text: string) => string): unknown {
  if (typeof value === "string") return renamed(value);
  if (Array.isArray(value)) return value.map((each) => renameAll(each, renamed));
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, each]) => [renamed(key), renameAll(each, renamed)]));
}
