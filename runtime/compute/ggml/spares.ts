// Buffers of a driver in software that nobody uses any more, for who asks next. Mesa's llvmpipe (seen in 22.3.6) spoils the heap once
// buffers are freed between graphs, though no tensor of a later graph lies in one, and does not where they stay; supposed is that it counts
// references by descriptors of earlier graphs. So memory there is freed at the device's close alone.
import type { Pointer } from "./functions.ts";

interface Spare {
  readonly bytes: number;
  /** Its kind. */
  readonly memory: Pointer;
}

export class Spares<T extends Spare> {
  readonly #kept: T[] = [];

  /** The smallest of that kind of memory that is large enough, and no longer spare. A new buffer is made only where none is, so they are
   *  as many as were ever in use at once, and those that were outgrown. */
  take(bytes: number, memory: Pointer): T | undefined {
    const fitting = this.#kept.filter((each) => each.memory === memory && each.bytes >= bytes);
    const found = fitting.reduce<T | undefined>(
      (least, each) => (least === undefined || each.bytes < least.bytes ? each : least),
      undefined,
    );
    if (found !== undefined) this.#kept.splice(this.#kept.indexOf(found), 1);
    return found;
  }

  keep(buffer: T): void {
    this.#kept.push(buffer);
  }
}
