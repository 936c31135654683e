// Where the blocks of prompts are, each named once for all ranks that name them alike.
import { movedKv } from "../../../crds/common.ts";
import type { RoutingPolicyName } from "../../../crds/names.ts";
import { blockIds } from "../../net/prefix-ids.ts";
import type { Generation } from "./failover.ts";
import type { KnownPrefixes } from "./known-prefixes.ts";

const blocksMost = 512;
/** A longer prompt is known by its beginning. */
export const namedTokensMost = blocksMost * movedKv.tokens;

type Text = Pick<Generation, "prompt" | "cacheSalt">;
interface Holder {
  readonly prefixes: KnownPrefixes;
}

export class PromptBlocks {
  readonly #routing: RoutingPolicyName;
  readonly #now: () => number;
  readonly #ids = new WeakMap<Text, Map<string, readonly string[]>>();

  constructor(routing: RoutingPolicyName, now: () => number) {
    this.#routing = routing;
    this.#now = now;
  }

  /** Ids as this rank names them; none for one that has not told how. */
  of({ prefixes: { root } }: Holder, text: Text): readonly string[] {
    if (root === undefined || text.prompt.length < movedKv.tokens || this.#routing === "RoundRobin") return [];
    const byRoot = this.#ids.get(text) ?? new Map<string, readonly string[]>();
    this.#ids.set(text, byRoot);
    const ids = byRoot.get(root) ?? blockIds(text.prompt, { root: Buffer.from(root, "hex"), salt: text.cacheSalt ?? "" }, blocksMost);
    byRoot.set(root, ids);
    return ids;
  }

  /** Tokens that count in the choice of a rank. */
  found(holder: Holder, text: Text): number {
    return this.#routing === "PrefixAware" ? holder.prefixes.found(this.of(holder, text), this.#now()) : 0;
  }

  /** The one that has most of the prompt, and at least a block more than `here`. */
  elsewhere<T extends Holder>(others: readonly T[], here: Holder, text: Text): T | undefined {
    const least = this.reportedTokens(here, text) + movedKv.tokens;
    return others
      .filter((other) => this.reportedTokens(other, text) >= least)
      .sort((a, b) => this.reportedTokens(b, text) - this.reportedTokens(a, text))[0];
  }

  /** Tokens that are there. */
  reportedTokens(holder: Holder, text: Text): number {
    return holder.prefixes.reportedTokens(this.of(holder, text));
  }
}
