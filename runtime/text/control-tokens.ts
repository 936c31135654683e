// The control tokens of a tokenizer: they count where the template writes them, never where a user does (DECISIONS.md 1). Pure.
import type { AddedToken, TokenizerJson } from "./tokenizer-files.ts";

/** High surrogates: in well-formed text each is followed by a low one, so two in a row are nobody's, wherever one begins to read. */
const surrogate = 0xd800;
const surrogates = 1024;
const standInPattern = /[\uD800-\uDBFF]{2}/g;
/** What is written with a sign at both ends, as tokens that mark something are; words and runs of spaces are content. */
const markPattern = /^[^\p{L}\p{N}\s](?:.*[^\p{L}\p{N}\s])?$/su;

interface Node {
  readonly next: Map<string, Node>;
  token?: AddedToken;
}

export class ControlTokens {
  /** UTF-16 units that control tokens consist of. */
  readonly units: ReadonlySet<string>;
  readonly #standIns = new Map<string, string>();
  readonly #contents = new Map<string, string>();
  readonly #root: Node = { next: new Map() };

  /** `added`: the tokens that are cut out of a text before all else, in order; `control`: ids of those that control. */
  constructor(added: readonly AddedToken[], control: ReadonlySet<number>) {
    const units = new Set<string>();
    for (const token of added.filter(({ content }) => content !== "")) {
      this.#plant(token);
      if (!control.has(token.id) || this.#standIns.has(token.content)) continue;
      const index = this.#standIns.size;
      const standIn = String.fromCharCode(surrogate + Math.floor(index / surrogates), surrogate + (index % surrogates));
      this.#standIns.set(token.content, standIn);
      this.#contents.set(standIn, token.content);
      for (const unit of token.content.split("")) units.add(unit);
    }
    this.units = units;
  }

  /**
   * The text with a stand-in for each control token in it for which `counts` says so, of two that begin at the same place the longer
   * one. Half characters become replacement characters, as they do in UTF-8.
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
      const standIn = this.#standIns.get(found);
      if (standIn !== undefined) {
        out += whole.slice(done, at) + standIn;
        done = at + found.length;
      }
      at += found.length;
    }
    return out + whole.slice(done);
  }

  /** The way back, of decoded text. */
  unmark(text: string): string {
    return text.replace(standInPattern, (standIn) => this.#contents.get(standIn) ?? standIn);
  }

  /** The texts of the added tokens that a text holds. */
  in(text: string): ReadonlySet<string> {
    const found = new Set<string>();
    for (let at = 0; at < text.length; ) {
      const content = this.#longest(text, at, () => true);
      if (content !== undefined) found.add(content);
      at += content?.length ?? 1;
    }
    return found;
  }

  /** The tokenizer that knows control tokens by their stand-ins alone: no merge and no piece of ordinary text leads to their ids. */
  disguise(json: TokenizerJson): TokenizerJson {
    const { model } = json;
    const renamed = (text: string) => this.#standIns.get(text) ?? text;
    const vocab = Array.isArray(model.vocab)
      ? model.vocab.map(([text, score]): [string, number] => [renamed(text), score])
      : Object.fromEntries(Object.entries(model.vocab).map(([text, id]) => [renamed(text), id]));
    const leads = (merge: string | readonly [string, string]) =>
      this.#standIns.has(typeof merge === "string" ? merge.replace(" ", "") : merge.join(""));
    return {
      ...json,
      model: {
        ...model,
        vocab,
        ...(model.merges === undefined ? {} : { merges: model.merges.filter((merge) => !leads(merge)) }),
        ...(typeof model.unk_token === "string" ? { unk_token: renamed(model.unk_token) } : {}),
      },
      added_tokens: json.added_tokens.map((token) =>
        this.#standIns.has(token.content) ? { ...token, content: renamed(token.content), normalized: false } : token,
      ),
      post_processor: renameAll(json.post_processor, renamed),
    };
  }

  /** Configuration values that name a control token name its stand-in. */
  disguiseConfig<T extends object>(config: T): T {
    return renameAll(config, (text) => this.#standIns.get(text) ?? text) as T;
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

  /** The longest added token at this place; a control token only where it counts. */
  #longest(text: string, from: number, counts: (from: number, to: number) => boolean): string | undefined {
    let longest: string | undefined;
    let node: Node | undefined = this.#root;
    for (let at = from; node !== undefined && at <= text.length; at++) {
      const content = node.token?.content;
      if (content !== undefined && (!this.#standIns.has(content) || counts(from, at))) longest = content;
      node = node.next.get(text[at] ?? "");
    }
    return longest;
  }
}

/** True for a token that reads like a mark, not like a word or a run of spaces. */
export function isMark({ content }: AddedToken): boolean {
  return markPattern.test(content);
}

function renameAll(value: unknown, renamed: (text: string) => string): unknown {
  if (typeof value === "string") return renamed(value);
  if (Array.isArray(value)) return value.map((each) => renameAll(each, renamed));
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, each]) => [renamed(key), renameAll(each, renamed)]));
}
