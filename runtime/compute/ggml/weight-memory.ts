// Memory of weights that are there for as long as their model, one after another in large pages: a token's rows go through all of them
// once, and by small pages the processor spends a fifth of that time on finding where they are. A layer's own weights are often less than
// one large page, so those of many share them. A large page is taken whole, so none is where not all of it was given out: what is resident
// is what was given out.
import type { Pointer } from "./functions.ts";
import type { GgmlLibrary } from "./library.ts";

/** Bytes of addresses that are taken at once; what is not given out takes no memory. */
const chunkBytes = 64 * 2 ** 20;
/** Bytes of a large page; a machine with others takes them as it does. */
const largePageBytes = 2 * 2 ** 20;

/** Memory of the device, which tensors are placed in. */
export interface DeviceBuffer {
  readonly handle: Pointer;
  readonly base: Pointer;
  readonly bytes: number;
  free(): void;
}

/** The device, as far as memory is taken from it. */
interface Source {
  /** Undefined where memory has no pages that can be given back. */
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
  /** Bytes given out, from its start on. */
  used: number;
  /** Of what was given out, how many are not given back. */
  held: number;
}

export class WeightMemory {
  readonly #device: Source;
  /** The newest of each kind of memory. */
  readonly #chunks = new Map<Pointer, Chunk>();

  constructor(device: Source) {
    this.#device = device;
  }

  /** So many bytes in memory of that kind; on a device without pages, a buffer of their own. */
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

  /** The large pages that are given out whole from now on are taken as such, the first with what others have in it. */
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
