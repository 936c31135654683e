// Bytes that requests hold: a sum for all, a share of it for one client's large ones, and room that large ones leave to small ones.

const mebibyte = 1024 * 1024;
/** Most requests are small: others leave them this much. */
export const smallBytesMax = 64 * 1024;
const leftToSmallBytes = 8 * mebibyte;

export class ByteShares {
  readonly #bytesMax: number;
  #bytes = 0;
  /** The key is the client; those that hold none are not in it. */
  readonly #bytesOf = new Map<string, number>();

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  /** `had`: bytes of the same request that these replace. Half of all is for one client. */
  isWithinShare(client: string, bytes: number, had = 0): boolean {
    return bytes <= smallBytesMax || (this.#bytesOf.get(client) ?? 0) - had + bytes <= this.#bytesMax / 2;
  }

  fits(client: string, bytes: number, had = 0): boolean {
    const most = bytes > smallBytesMax ? this.#bytesMax - leftToSmallBytes : this.#bytesMax;
    return this.isWithinShare(client, bytes, had) && this.#bytes - had + bytes <= most;
  }

  /** Less than 0 gives back. */
  add(client: string, bytes: number): void {
    const own = (this.#bytesOf.get(client) ?? 0) + bytes;
    if (own > 0) this.#bytesOf.set(client, own);
    else this.#bytesOf.delete(client);
    this.#bytes += bytes;
  }
}
