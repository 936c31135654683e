// Unused buffers of a software driver, for reuse (../DECISIONS.md 7).
import type { Pointer } from "./functions.ts";

interface Spare {
  readonly bytes: number;
  readonly memory: Pointer;
}

export class Spares<T extends Spare> {
  readonly #kept: T[] = [];

  /** Takes the smallest unused buffer of that memory type that is large enough. */
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
