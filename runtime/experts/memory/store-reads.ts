// Reads single experts from the store. A caller may give up on a stuck disk; the read goes on, and the next caller joins it.
import { AppError } from "../../../crds/common.ts";
import type { CodecName } from "../../../crds/names.ts";
import { abortReason, Signal } from "../../net/signal.ts";
import type { ModelStore } from "../../weights/store.ts";

/** One of the four I/O threads stays free. */
const readsMax = 3;
const patienceMs = 30_000;

interface Read {
  readonly bytes: Promise<Uint8Array>;
  callers: number;
}

export class StoreReads {
  readonly #store: Pick<ModelStore, "readUnit">;
  readonly #codec: CodecName;
  readonly #reads = new Map<string, Read>();
  readonly #ended = new Signal();

  constructor(store: Pick<ModelStore, "readUnit">, codec: CodecName) {
    this.#store = store;
    this.#codec = codec;
  }

  /** Throws `CorruptShard`, `Unavailable`, or the signal's reason. */
  async read(layer: number, expert: number, signal: AbortSignal): Promise<Uint8Array> {
    const endsAt = performance.now() + patienceMs;
    const key = `${layer}.${expert}`;
    while (!this.#reads.has(key) && this.#reads.size >= readsMax) await this.#ended.wait(this.#left(endsAt), signal);
    const read = this.#reads.get(key) ?? this.#start(key, layer, expert);
    read.callers += 1;
    const bytes = await this.#wait(read, endsAt, signal);
    return read.callers === 1 ? bytes : bytes.slice(); // an engine takes its bytes over
  }

  #start(key: string, layer: number, expert: number): Read {
    const bytes = this.#store.readUnit(layer, expert, this.#codec).finally(() => {
      this.#reads.delete(key);
      this.#ended.notify();
    });
    const read = { bytes, callers: 0 };
    this.#reads.set(key, read);
    return read;
  }

  #wait(read: Read, endsAt: number, signal: AbortSignal): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      const leave = () => end(() => reject(abortReason(signal)));
      const late = setTimeout(() => end(() => reject(stuck())), Math.max(0, endsAt - performance.now()));
      const end = (settle: () => void) => {
        clearTimeout(late);
        signal.removeEventListener("abort", leave);
        settle();
      };
      read.bytes.then(
        (bytes) => end(() => resolve(bytes)),
        (error) => end(() => reject(error)),
      );
      if (signal.aborted) leave();
      else signal.addEventListener("abort", leave, { once: true });
    });
  }

  #left(endsAt: number): number {
    const leftMs = endsAt - performance.now();
    if (leftMs <= 0) throw stuck();
    return leftMs;
  }
}

function stuck(): AppError {
  return new AppError(`the model store has not answered for ${patienceMs / 1000} s`, {
    code: "Unavailable",
    operation: "reading the model store",
    retry: "backoff",
  });
}
