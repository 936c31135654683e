// What one rank has of prompts: the blocks that it tells of with heartbeats, and those that requests on their way bring there. It is
// a hint: whatever is wrong in it costs speed alone.
import { movedKv } from "../../../crds/common.ts";
import type { PrefixUpdate } from "../../../crds/names.ts";
import type { PrefixChanges as Message } from "../../net/gen/enodia/runtime/v1/runtime_pb.js";
import { rootBytes, unpackIds } from "../../net/prefix-ids.ts";

export type PrefixChanges = Readonly<Pick<Message, "number" | "root" | "gained" | "lost">>;

/** Twice what a rank tells of. */
const blocksMost = 8_192;
/** The rank has told of a request's blocks by then. */
const tellMs = 2_000;

export class KnownPrefixes {
  /** In hexadecimal; undefined: nothing is known. */
  #root: string | undefined;
  #number = 0;
  readonly #reported = new Set<string>();
  /** The requests that bring them, and until when they count once none does. */
  readonly #coming = new Map<string, { readonly requests: number; readonly until: number }>();

  /** A gap is a change that was missed: nothing is known until the next snapshot. */
  take({ number, root, gained, lost }: PrefixChanges, now: number): PrefixUpdate {
    const isSnapshot = root.length === rootBytes;
    const isNext = this.#root !== undefined && number === this.#number + 1;
    if (isSnapshot || !isNext) this.#reported.clear();
    if (isSnapshot) this.#root = Buffer.from(root).toString("hex");
    else if (!isNext) this.#root = undefined;
    if (this.#root === undefined) return "gap";
    this.#number = number;
    for (const id of unpackIds(lost)) this.#reported.delete(id);
    for (const id of unpackIds(gained).slice(0, blocksMost - this.#reported.size)) this.#reported.add(id);
    for (const [id, { requests, until }] of this.#coming) if (requests === 0 && until < now) this.#coming.delete(id);
    return isSnapshot ? "snapshot" : "delta";
  }

  get root(): string | undefined {
    return this.#root;
  }

  /** Tokens that are there. */
  reportedTokens(ids: readonly string[]): number {
    return movedKv.tokens * (1 + ids.findLastIndex((id) => this.#reported.has(id)));
  }

  /** Tokens that are there, or on their way. */
  found(ids: readonly string[], now: number): number {
    const comes = (id: string): boolean => {
      const { requests = 0, until = now } = this.#coming.get(id) ?? {};
      return requests > 0 || until > now;
    };
    return movedKv.tokens * (1 + ids.findLastIndex((id) => this.#reported.has(id) || comes(id)));
  }

  /** A request brings them. */
  expect(ids: readonly string[]): void {
    for (const id of ids) {
      const { requests = 0, until = 0 } = this.#coming.get(id) ?? {};
      this.#coming.set(id, { requests: requests + 1, until });
    }
  }

  /** It has ended; after `failed` they are not there. */
  ended(ids: readonly string[], now: number, failed: boolean): void {
    for (const id of ids) {
      const { requests = 1, until = 0 } = this.#coming.get(id) ?? {};
      this.#coming.set(id, { requests: Math.max(0, requests - 1), until: failed ? until : now + tellMs });
    }
  }
}
