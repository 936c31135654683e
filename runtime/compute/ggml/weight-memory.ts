// Allocates weights that live as long as their model, contiguously in large pages: small pages cost a fifth of a token's time in address
// translation. A large page is used only once all of it is allocated, so nothing extra is resident.
import type { Pointer } from "./functions.ts";
import { largePageBytes } from "./large-pages.ts";
import type { GgmlLibrary } from "./library.ts";

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

/** Address space reserved at once; the unused part takes no memory. */
const chunkBytes = 64 * 2 ** 20;

export interface DeviceBuffer {
  readonly handle: Pointer;
  readonly base: Pointer;
  readonly bytes: number;
  free(): void;
}

interface Source {
  /** Undefined where memory has no pages that can be returned. */
  readonly pageBytes: number | undefined;
  readonly ggml: Pick<GgmlLibrary, "singlePages" | "largePages" | "joinPages">;
  aligned(bytes: number): number;
  allocate(bytes: number, memory: Pointer): DeviceBuffer;
  discard(from: Pointer, bytes: number): void;
}

interface Chunk {
  readonly buffer: DeviceBuffer;
  readonly from: Pointer;
  readonly bytes: number;
  used: number;
  held: number;
}

export class WeightMemory {
  readonly #device: Source;
  readonly #chunks = new Map<Pointer, Chunk>();

  constructor(device: Source) {
    this.#device = device;
  }

  /** A device without pages gets a separate buffer. */
  take(bytes: number, memory: Pointer): DeviceBuffer {
    if (this.#device.pageBytes === undefined) return this.#device.allocate(bytes, memory);
    const size = this.#device.aligned(Math.max(bytes, 1));
    const chunk = this.#capacityFor(size, memory);
    const base = chunk.from + BigInt(chunk.used);
    this.#giveOut(chunk, size);
    chunk.held += 1;
    let held = true;
    const free = (): void => {
      if (!held) return;
      held = false;
      this.#device.discard(base, size);
      chunk.held -= 1;
      if (chunk.held > 0) return;
      if (this.#chunks.get(memory) === chunk) this.#chunks.delete(memory);
      chunk.buffer.free();
    };
    return { handle: chunk.buffer.handle, base, bytes: size, free };
  }

  /** Switches the pages that are now fully allocated to large ones. */
  #giveOut(chunk: Chunk, size: number): void {
    const { ggml } = this.#device;
    const [before, after] = [chunk.used, chunk.used + size].map((used) => Math.floor(used / largePageBytes)) as [number, number];
    const at = chunk.from + BigInt(before * largePageBytes);
    if (after > before) ggml.largePages(at, (after - before) * largePageBytes);
    if (after > before && chunk.used > before * largePageBytes) ggml.joinPages(at, largePageBytes);
    chunk.used += size;
  }

  #capacityFor(size: number, memory: Pointer): Chunk {
    const newest = this.#chunks.get(memory);
    if (newest !== undefined && newest.used + size <= newest.bytes) return newest;
    const bytes = Math.max(size, chunkBytes);
    const buffer = this.#device.allocate(bytes + largePageBytes, memory);
    const large = BigInt(largePageBytes);
    const from = ((buffer.base + large - 1n) / large) * large;
    this.#device.ggml.singlePages(from, bytes);
    const made = { buffer, from, bytes, used: 0, held: 0 };
    const left = newest === undefined ? 0 : newest.bytes - newest.used;
    if (bytes - size >= left) this.#chunks.set(memory, made);
    return made;
  }
}
