// The troubles of a simulated cluster's network and disks at a time: switched on by faults and tests, asked at every message and
// every read.
import { create } from "@bufbuild/protobuf";
import { type Chunk, ChunkSchema } from "../../runtime/net/gen/enodia/runtime/v1/runtime_pb.js";
import { flipped } from "./model.ts";
import type { Disk } from "./store.ts";
import type { Taps } from "./wire.ts";

/** A unit on its way between two ranks at full speed. */
const transferMs = 20;
const twice = /\/(commit|abort|release)$/;
const chunkType = "enodia.runtime.v1.Chunk";

export class Troubles {
  /** Pairs that cannot talk, as "a:b" with a < b; -2 = operator. */
  readonly cuts = new Set<string>();
  /** The number of transfers and reads to come that have a bit flipped. */
  corruptNext = 0;
  /** The factor by which transfers and reads take longer, by rank. */
  slow = new Map<number, number>();
  /** Calls of the protocol are delivered twice now and then. */
  duplicating = false;
  /** Ranks whose disk does not answer, and whose disk has rotted. */
  readonly hanging = new Set<number>();
  readonly rotten = new Set<number>();
  readonly #random: () => number;

  constructor(random: () => number) {
    this.#random = random;
  }

  calm(): void {
    for (const each of [this.cuts, this.slow, this.hanging, this.rotten]) each.clear();
    this.corruptNext = 0;
    this.duplicating = false;
  }

  #corrupts(): boolean {
    return this.corruptNext > 0 && this.corruptNext-- > 0;
  }

  disk(rank: number): Disk {
    return {
      hanging: () => this.hanging.has(rank),
      damaged: () => this.rotten.has(rank) || this.#corrupts(),
      factor: () => this.slow.get(rank) ?? 1,
    };
  }

  ofWire(): Omit<Taps, "arriving"> {
    return {
      connected: (a, b) => !this.cuts.has(`${Math.min(a, b)}:${Math.max(a, b)}`),
      duplicates: (method) => this.duplicating && twice.test(method) && this.#random() < 0.2,
      transfer: (_method, message) =>
        isChunk(message) ? { ms: transferMs * (0.5 + this.#random()), factor: ({ id }) => this.slow.get(id) ?? 1 } : undefined,
    };
  }

  /** Bytes of experts are what may arrive damaged here: all else would not pass TLS. */
  damaged(message: unknown): unknown {
    if (!isChunk(message) || !this.#corrupts()) return message;
    return create(ChunkSchema, { ...message, data: flipped(message.data, this.#random) });
  }
}

const isChunk = (message: unknown): message is Chunk => (message as Partial<Chunk> | undefined)?.$typeName === chunkType;
