// Memory of arrays that nobody reads any more. V8 by itself collects after every 64 MiB of them, which a step makes many times over: up to
// a fifth of its time. Here it counts them with all of its heap, and is asked to collect once there are more than a bound.
import { getHeapStatistics, setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

/** Bytes of arrays, beside those that were there when it was collected last: more of them save no time that can be measured. */
const bytesMost = 512 * 2 ** 20;
/** V8's own bound. */
const bytesLeast = 64 * 2 ** 20;

let collect: (() => void) | undefined;

function collector(): () => void {
  if (collect !== undefined) return collect;
  setFlagsFromString("--external-memory-accounted-in-global-limit");
  setFlagsFromString("--expose-gc");
  collect = runInNewContext("gc") as () => void;
  return collect;
}

export class Garbage {
  readonly #bytes: number;
  readonly #collect: () => void;
  #before: number;

  /** `bytes`: memory that may wait to be collected. The engine's setting is one for the whole process. */
  constructor(bytes: number) {
    this.#bytes = Math.min(bytesMost, Math.max(bytesLeast, bytes));
    this.#collect = collector();
    this.#before = getHeapStatistics().external_memory;
  }

  /** To be called where some milliseconds more do not matter, at least once a layer. */
  look(): void {
    const { external_memory: now } = getHeapStatistics();
    // V8 may have collected by itself.
    this.#before = Math.min(this.#before, now);
    if (now - this.#before <= this.#bytes) return;
    this.#collect();
    this.#before = getHeapStatistics().external_memory;
  }
}
