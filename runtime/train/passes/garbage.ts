// Collects garbage of large arrays. V8 collects after every 64 MiB of them, which costs up to a fifth of a step; here it collects above
// a larger bound.
import { getHeapStatistics, setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

const bytesMost = 512 * 2 ** 20;
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

  /** `bytes` may wait to be collected. The V8 flag is process-wide. */
  constructor(bytes: number) {
    this.#bytes = Math.min(bytesMost, Math.max(bytesLeast, bytes));
    this.#collect = collector();
    this.#before = getHeapStatistics().external_memory;
  }

  /** Call it where a pause is harmless, at least once a layer. */
  look(): void {
    const { external_memory: now } = getHeapStatistics();
    this.#before = Math.min(this.#before, now);
    if (now - this.#before <= this.#bytes) return;
    this.#collect();
    this.#before = getHeapStatistics().external_memory;
  }
}
