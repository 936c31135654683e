// Ranks of one process: frames are copied from sender to receiver, counted, and kept until they are asked for. One rank that fails ends
// the world for all, so that nobody waits for a frame that never comes.
import { AppError } from "../../crds/common.ts";
import { type FrameName, frameMsMax, type Payload, type Stamp, type Transport, type WantedFrame } from "./transport.ts";

/** Bytes of frames that a rank has not asked for yet, at most. */
const waitingBytesMax = 2 ** 32;

interface Frame {
  readonly stamp: Stamp;
  readonly payload: Payload;
}

interface Waiting {
  take(frame: Frame): void;
  fail(error: unknown): void;
}

/** Frames of one name between two ranks: those that came, or those who wait for one. */
interface Queue {
  readonly frames: Frame[];
  readonly waiting: Waiting[];
}

/** Bytes by the exchange that they were part of. */
type Traffic = Map<string, number>;

const keyOf = (from: number, to: number, { what, layer, chunk, piece }: FrameName): string =>
  `${from} ${to} ${what} ${layer} ${chunk} ${piece}`;

function checked({ stamp, payload }: Frame, stampHere: Stamp, from: number, wanted: WantedFrame): Payload {
  const off = (["world", "step", "plan"] as const).find((field) => stamp[field] !== stampHere[field]);
  if (off === undefined && payload.length === wanted.length) return payload;
  const [there, here] =
    off === undefined ? [`${payload.length} numbers`, `waits for ${wanted.length}`] : [`${off} ${stamp[off]}`, `has ${stampHere[off]}`];
  throw new AppError(
    `rank ${from} sent ${wanted.what} of layer ${wanted.layer} with ${there}, this rank ${here}; ` +
      "ranks have to begin the step again with the same settings and one plan",
    { code: "PlanMismatch", operation: "receiving a frame" },
  );
}

export class Loopback {
  readonly #queues = new Map<string, Queue>();
  readonly #held: number[];
  readonly #frameMs: number;
  readonly #sent: Traffic[];
  readonly #received: Traffic[];
  #ended: { readonly error: unknown } | undefined;

  /** `frameMs`: how long a frame is waited for. */
  constructor(ranks: number, frameMs = frameMsMax) {
    this.#frameMs = frameMs;
    this.#held = new Array<number>(ranks).fill(0);
    this.#sent = this.#held.map(() => new Map());
    this.#received = this.#held.map(() => new Map());
  }

  /** Bytes that a rank sent and received in exchanges of that name since `takeTraffic` was asked last. */
  takeTraffic(rank: number, what: string): { readonly sent: number; readonly received: number } {
    const [sent, received] = [this.#sent[rank], this.#received[rank]];
    const found = { sent: sent?.get(what) ?? 0, received: received?.get(what) ?? 0 };
    sent?.delete(what);
    received?.delete(what);
    return found;
  }

  /** Whoever waits, and whoever comes to wait, gets the error. */
  end(error: unknown): void {
    this.#ended ??= { error };
    for (const { waiting } of this.#queues.values()) for (const each of waiting.splice(0)) each.fail(this.#ended.error);
  }

  transport(rank: number): Transport {
    return {
      rank,
      ranks: this.#held.length,
      send: async (to, stamp, name, payload) => this.#send(rank, to, { stamp, payload: payload.slice() }, name),
      receive: async (from, stamp, wanted) => checked(await this.#next(from, rank, wanted), stamp, from, wanted),
    };
  }

  #queue(key: string): Queue {
    let queue = this.#queues.get(key);
    if (queue === undefined) {
      queue = { frames: [], waiting: [] };
      this.#queues.set(key, queue);
    }
    return queue;
  }

  #send(from: number, to: number, frame: Frame, name: FrameName): void {
    if (this.#ended !== undefined) throw this.#ended.error;
    const bytes = frame.payload.byteLength;
    count(this.#sent[from] as Traffic, name.what, bytes);
    const key = keyOf(from, to, name);
    const queue = this.#queue(key);
    const waiting = queue.waiting.shift();
    if (waiting !== undefined) {
      count(this.#received[to] as Traffic, name.what, bytes);
      if (queue.waiting.length === 0) this.#queues.delete(key);
      waiting.take(frame);
      return;
    }
    const held = (this.#held[to] as number) + bytes;
    if (held > waitingBytesMax)
      throw new AppError(
        `rank ${to} has not taken ${held} bytes of frames, ${waitingBytesMax} are allowed: it falls behind, or copies come too far ahead; ` +
          'take rematerialize "AfterForward" or fewer memorySlots, and fewer sequences where it is rows',
        {
          code: "FrameBacklog",
          operation: "sending a frame",
        },
      );
    this.#held[to] = held;
    queue.frames.push(frame);
  }

  #come(queue: Queue, from: number, name: FrameName): Promise<Frame> {
    return new Promise((resolve, reject) => {
      const waiting: Waiting = {
        take(frame) {
          clearTimeout(late);
          resolve(frame);
        },
        fail(error) {
          clearTimeout(late);
          reject(error);
        },
      };
      const late = setTimeout(() => {
        queue.waiting.splice(queue.waiting.indexOf(waiting), 1);
        reject(silent(from, name, this.#frameMs));
      }, this.#frameMs);
      queue.waiting.push(waiting);
    });
  }

  #next(from: number, to: number, name: FrameName): Promise<Frame> {
    if (this.#ended !== undefined) return Promise.reject(this.#ended.error);
    const key = keyOf(from, to, name);
    const queue = this.#queue(key);
    const frame = queue.frames.shift();
    if (frame === undefined) return this.#come(queue, from, name);
    if (queue.frames.length === 0) this.#queues.delete(key);
    const bytes = frame.payload.byteLength;
    this.#held[to] = (this.#held[to] as number) - bytes;
    count(this.#received[to] as Traffic, name.what, bytes);
    return Promise.resolve(frame);
  }
}

function silent(from: number, { what, layer }: FrameName, ms: number): AppError {
  return new AppError(
    `rank ${from} sent no ${what} of layer ${layer} for ${ms} ms; see whether it runs, with the same settings, and begin the step again`,
    { code: "RankSilent", operation: "receiving a frame" },
  );
}

function count(traffic: Traffic, what: string, bytes: number): void {
  traffic.set(what, (traffic.get(what) ?? 0) + bytes);
}
