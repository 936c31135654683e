// Received frames of one rank until they are requested by name, and the requests that wait. All transports deliver here.
import { AppError } from "../../../crds/common.ts";
import type { FrameName, Payload, Stamp, WantedFrame } from "./transport.ts";

/** Added per frame, so that empty frames are bounded too. */
const entryBytes = 1_024;

export interface Frame {
  readonly stamp: Stamp;
  readonly payload: Payload;
}

interface Waiting {
  take(frame: Frame): void;
  fail(error: unknown): void;
}

interface Queue {
  readonly from: number;
  readonly frames: Frame[];
  readonly waiting: Waiting[];
}

interface Sender {
  heldBytes: number;
  waiting: number;
  left: { readonly error: unknown } | undefined;
}

export class Traffic {
  readonly #bytes = new Map<string, number>();

  count(what: string, bytes: number): void {
    this.#bytes.set(what, (this.#bytes.get(what) ?? 0) + bytes);
  }

  take(what: string): number {
    const bytes = this.#bytes.get(what) ?? 0;
    this.#bytes.delete(what);
    return bytes;
  }
}

const keyOf = (from: number, { what, layer, chunk, piece }: FrameName): string => `${from} ${what} ${layer} ${chunk} ${piece}`;

export class Inbox {
  readonly received = new Traffic();
  readonly #frameMs: (what: string) => number;
  readonly #onAsked: (from: number) => void;
  readonly #queues = new Map<string, Queue>();
  readonly #senders: readonly Sender[];
  #ended: { readonly error: unknown } | undefined;

  /** `frameMs`: the time limit per exchange; `onAsked`: a frame is awaited, or was taken. */
  constructor(ranks: number, frameMs: (what: string) => number, onAsked: (from: number) => void = () => {}) {
    this.#frameMs = frameMs;
    this.#onAsked = onAsked;
    this.#senders = Array.from({ length: ranks }, () => ({ heldBytes: 0, waiting: 0, left: undefined }));
  }

  heldBytes(from: number): number {
    return this.#sender(from).heldBytes;
  }

  awaits(from: number): boolean {
    return this.#sender(from).waiting > 0;
  }

  put(from: number, name: FrameName, frame: Frame): void {
    if (this.#ended !== undefined) return;
    const key = keyOf(from, name);
    const queue = this.#queue(key, from);
    const waiting = queue.waiting.shift();
    if (waiting === undefined) {
      this.#sender(from).heldBytes += entryBytes + frame.payload.byteLength;
      queue.frames.push(frame);
      return;
    }
    this.received.count(name.what, frame.payload.byteLength);
    this.#forget(key, queue);
    waiting.take(frame);
  }

  async take(from: number, stamp: Stamp, wanted: WantedFrame): Promise<Payload> {
    return checked(await this.#next(from, wanted), stamp, from, wanted);
  }

  /** Frames that arrived earlier stay. */
  left(from: number, error: unknown): void {
    this.#sender(from).left ??= { error };
    for (const queue of this.#queues.values()) if (queue.from === from) for (const each of queue.waiting.splice(0)) each.fail(error);
  }

  /** All current and later waits throw the error. */
  end(error: unknown): void {
    this.#ended ??= { error };
    for (const { waiting } of this.#queues.values()) for (const each of waiting.splice(0)) each.fail(this.#ended.error);
    this.#queues.clear();
  }

  #sender(from: number): Sender {
    return this.#senders[from] as Sender;
  }

  #queue(key: string, from: number): Queue {
    let queue = this.#queues.get(key);
    if (queue === undefined) {
      queue = { from, frames: [], waiting: [] };
      this.#queues.set(key, queue);
    }
    return queue;
  }

  #forget(key: string, { frames, waiting }: Queue): void {
    if (frames.length === 0 && waiting.length === 0) this.#queues.delete(key);
  }

  #next(from: number, name: FrameName): Promise<Frame> {
    if (this.#ended !== undefined) return Promise.reject(this.#ended.error);
    const key = keyOf(from, name);
    const queue = this.#queue(key, from);
    const frame = queue.frames.shift();
    const sender = this.#sender(from);
    if (frame !== undefined) {
      sender.heldBytes -= entryBytes + frame.payload.byteLength;
      this.received.count(name.what, frame.payload.byteLength);
    }
    if (frame === undefined && sender.left === undefined) return this.#come(key, queue, name);
    this.#forget(key, queue);
    if (frame === undefined) return Promise.reject(sender.left?.error);
    this.#onAsked(from);
    return Promise.resolve(frame);
  }

  #come(key: string, queue: Queue, name: FrameName): Promise<Frame> {
    const { from } = queue;
    const sender = this.#sender(from);
    return new Promise((resolve, reject) => {
      const over = (): void => {
        clearTimeout(late);
        sender.waiting -= 1;
      };
      const waiting: Waiting = {
        take(frame) {
          over();
          resolve(frame);
        },
        fail(error) {
          over();
          reject(error);
        },
      };
      const ms = this.#frameMs(name.what);
      const late = setTimeout(() => {
        queue.waiting.splice(queue.waiting.indexOf(waiting), 1);
        this.#forget(key, queue);
        waiting.fail(silent(from, name, ms));
      }, ms);
      queue.waiting.push(waiting);
      sender.waiting += 1;
      this.#onAsked(from);
    });
  }
}

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

function silent(from: number, { what, layer }: FrameName, ms: number): AppError {
  return new AppError(
    `rank ${from} sent no ${what} of layer ${layer} for ${ms} ms; see whether it runs, with the same settings, and begin the step again`,
    { code: "RankSilent", operation: "receiving a frame" },
  );
}
