// How fast keys and values came from a peer or the disk, beside computing them. A measured rate counts for a while, so that what was slow
// is tried again.
import type { KvLook } from "../engine/engine.ts";

const knownMs = 15_000;

export class KvRate {
  #last: { readonly bytesPerMs: number; readonly at: number } | undefined;

  measured(bytes: number, ms: number): void {
    this.#last = { bytesPerMs: bytes / Math.max(ms, 1e-3), at: performance.now() };
  }

  /** True where bytes are expected before rows, or one of the two is not known. */
  pays({ tokenBytes, tokenMs }: Pick<KvLook, "tokenBytes" | "tokenMs">): boolean {
    if (this.#last === undefined || tokenMs === undefined || performance.now() - this.#last.at > knownMs) return true;
    return tokenBytes / this.#last.bytesPerMs < tokenMs;
  }
}
