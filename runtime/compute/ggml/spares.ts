// Buffers of a driver in software that nobody uses any more, for who asks next. Mesa's llvmpipe (seen in 22.3.6) counts references in
// buffers of descriptors that no kernel reads, also where their memory is long freed: that spoils the heap. So there it is freed at the
// device's close alone.
interface Sized {
  readonly bytes: number;
}

export class Spares<T extends Sized> {
  readonly #kept: T[] = [];

  /** The smallest that is large enough, and no longer spare. A new buffer is made only where none is, so they are as many as were ever in
   *  use at once, and those that were outgrown. */
  take(bytes: number): T | undefined {
    const fitting = this.#kept.filter((each) => each.bytes >= bytes);
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
