// The memory of experts of one shape and type, in slots of equal size: each part of them in a piece of its own.
import type { Weights } from "../../kernels/weights.ts";
import type { GgmlDevice, Metadata } from "./device.ts";
import { columnsOf, type Part, type Piece, type Product, partIndex, piecesOf } from "./expert-matrices.ts";
import type { Pointer } from "./functions.ts";
import type { GraphBuilder, Value } from "./graph.ts";
import type { WeightSource } from "./lowering.ts";
import { storagesOf } from "./matrix-storage.ts";
import { numberOf, weightBytes } from "./types.ts";
import type { DeviceBuffer } from "./weight-memory.ts";

/** Bytes that are packed and written at once on the processor, at most: a part of a millisecond's work. */
const pieceBytesMax = 512 * 2 ** 10;

interface Placed {
  readonly part: Part;
  readonly buffer: DeviceBuffer;
  readonly base: Pointer;
  /** Bytes from one slot to the next. */
  readonly stride: number;
  /** [columns, rows, slots], of a bias [columns, slots]; undefined in memory in which rows cannot choose. */
  readonly all: Pointer | undefined;
}

/** Rows of a part of a slot. */
interface Rows {
  readonly slot: number;
  readonly rows: number;
  /** Bytes from the part's first row to theirs. */
  readonly at: number;
}

/** Rows of which each goes to k experts of its choice. */
export interface Chosen {
  /** Slots [k, rows]. */
  readonly ids: Value;
  readonly k: number;
  readonly rows: number;
  /** The value that has a row for all k of them. */
  readonly shared: Value;
}

export class Slab {
  readonly parts: readonly Part[];
  readonly slots: number;
  /** Bytes of one expert. */
  readonly expertBytes: number;
  /** True where rows can choose among the slots. */
  readonly choosable: boolean;
  readonly #device: GgmlDevice;
  readonly #metadata: Metadata;
  readonly #placed: readonly Placed[];
  /** 1 where a slot holds an expert, or one is written. */
  readonly #taken: Uint8Array;
  /** 1 where a slot holds an expert. */
  readonly #used: Uint8Array;
  #count = 0;

  constructor(device: GgmlDevice, parts: readonly Part[], slots: number) {
    this.#device = device;
    this.parts = parts;
    this.slots = slots;
    this.#taken = new Uint8Array(slots);
    this.#used = new Uint8Array(slots);
    this.choosable = parts.every(({ storage, vector }) => vector || storage.choosable);
    this.#metadata = device.metadata(parts.length);
    const placed: Placed[] = [];
    this.#placed = placed;
    try {
      for (const part of parts) placed.push(this.#place(part));
    } catch (caught) {
      this.free();
      throw caught;
    }
    this.expertBytes = placed.reduce((sum, { stride }) => sum + stride, 0);
  }

  /** Slots that hold an expert. */
  get used(): number {
    return this.#count;
  }

  /** False for a slot that is empty, and in which nothing is being written. */
  isTaken(slot: number): boolean {
    return this.#taken[slot] === 1;
  }

  /** True while none of its slots is taken. */
  get idle(): boolean {
    return !this.#taken.includes(1);
  }

  /** The lowest empty slot; -1 when there is none. */
  get empty(): number {
    return this.#taken.indexOf(0);
  }

  put(slot: number, weights: Weights): void {
    atOnce(this.writing(slot, weights));
  }

  /** Writes an expert piece by piece. */
  *writing(slot: number, weights: Weights): Generator<void, void, void> {
    const device = this.#device;
    device.assertOpen();
    const bytesMax = device.exact ? pieceBytesMax : Number.POSITIVE_INFINITY;
    const pieces = this.#placed.flatMap((placed) => piecesOf(placed.part, weights, bytesMax).map((piece) => ({ placed, piece })));
    this.#taken[slot] = 1;
    try {
      for (const { placed, piece } of pieces) {
        device.assertOpen();
        this.#write(placed, slot, piece);
        yield;
      }
      this.#mark(slot, true);
    } finally {
      if (!this.#used[slot]) this.drop(slot);
    }
  }

  #write(placed: Placed, slot: number, { rows, at, data }: Piece): void {
    const device = this.#device;
    const { part } = placed;
    // Memory that packs may take more for a matrix than it has in a file; where slots lie close together, none does.
    const bytes = !this.choosable && rows === part.rows ? part.storage.bytes : data.byteLength;
    device.warmPages.claim(addressOf(placed, slot) + BigInt(at), bytes);
    this.#withTensors((context) => {
      device.ggml.ggml_backend_tensor_set(this.#tensor(context, placed, { slot, rows, at }), data, 0, data.byteLength);
    });
  }

  /** Copies an expert from a slot of another slab. */
  take(slot: number, from: Slab, source: number): void {
    this.#withTensors((context) => {
      for (const [i, placed] of this.#placed.entries()) {
        const { rows } = placed.part;
        this.#device.warmPages.forget(addressOf(placed, slot), placed.stride);
        const there = from.#tensor(context, from.#placed[i] as Placed, { slot: source, rows, at: 0 });
        this.#device.ggml.ggml_backend_tensor_copy(there, this.#tensor(context, placed, { slot, rows, at: 0 }));
      }
    });
    this.#mark(slot, true);
  }

  /** Empties a slot. */
  drop(slot: number): void {
    this.#mark(slot, false);
    for (const placed of this.#placed) {
      // A page that it shares with an empty slot holds nothing any more.
      const [before, after] = [slot - 1, slot + 1].map((other) => (this.#taken[other] === 0 ? this.#edgeBytes(placed) : 0)) as [
        number,
        number,
      ];
      this.#device.warmPages.keep(addressOf(placed, slot) - BigInt(before), before + placed.stride + after);
    }
  }

  /** Where each part of a slot lies. */
  addresses(slot: number): readonly Pointer[] {
    return this.#placed.map((placed) => addressOf(placed, slot));
  }

  /** The weights of each row's own experts. */
  of({ ids, k, rows, shared }: Chosen): WeightSource {
    const products = new Map<Placed, Product>();
    const find = (name: string): Placed & { readonly all: Pointer } => {
      const placed = this.#placed[partIndex(this.parts, name)];
      if (placed?.all !== undefined) return { ...placed, all: placed.all };
      throw new TypeError(`weight ${name} is not one of which rows choose`);
    };
    const multiply = (build: GraphBuilder, { part, all }: Placed & { readonly all: Pointer }, x: Value): Value => {
      const { ggml } = build.device;
      const per = x === shared ? 1 : k;
      const apart = build.view(ggml.ggml_reshape_3d(build.context, x.tensor, part.columns, per, rows), x);
      const product = build.step(ggml.ggml_mul_mat_id(build.context, all, apart.tensor, ids.tensor), [apart, ids]);
      return build.view(ggml.ggml_reshape_2d(build.context, product.tensor, part.rows, k * rows), product);
    };
    /** Bytes from row to row of values that lie in a product of several weights. */
    const strides = new Map<Value, number>();
    return {
      multiply: (build, name, x) => {
        const placed = this.#placed[partIndex(this.parts, name)] as Placed;
        const known = products.get(placed);
        const product = known?.of === x ? known.value : multiply(build, find(name), x);
        products.set(placed, { of: x, value: product });
        const own = columnsOf(build, { product, part: placed.part, rows: k * rows }, name);
        strides.set(own, placed.part.rows * Float32Array.BYTES_PER_ELEMENT);
        return own;
      },
      addRow: (build, name, x) => {
        const { ggml } = build.device;
        const { part, all } = find(name);
        const step = strides.get(x) ?? part.columns * Float32Array.BYTES_PER_ELEMENT;
        const apart = build.view(ggml.ggml_view_3d(build.context, x.tensor, part.columns, k, rows, step, k * step, 0), x);
        const sum = build.step(ggml.ggml_add_id(build.context, apart.tensor, all, ids.tensor), [apart, ids]);
        return build.view(ggml.ggml_reshape_2d(build.context, sum.tensor, part.columns, k * rows), sum);
      },
      tensor: (name) => {
        throw new TypeError(`${name} is a weight of an expert, which rows do not share`);
      },
    };
  }

  free(): void {
    for (const { buffer } of this.#placed) buffer.free();
    this.#metadata.free();
  }

  #edgeBytes({ stride }: Placed): number {
    return Math.min(this.#device.pageBytes ?? 0, stride);
  }

  #mark(slot: number, used: boolean): void {
    this.#count += Number(used) - (this.#used[slot] ?? 0);
    this.#used[slot] = Number(used);
    this.#taken[slot] = Number(used);
  }

  /** Rows of a part of a slot as a tensor, the first of which is `at` bytes behind the part's. */
  #tensor(context: Pointer, placed: Placed, { slot, rows, at }: Rows): Pointer {
    const { ggml } = this.#device;
    const { part, buffer, stride, all } = placed;
    const { type, columns, storage } = part;
    if (all === undefined || storage.memory.name !== "plain")
      return storagesOf(this.#device).tensor(context, { type, rows, columns }, buffer, addressOf(placed, slot) + BigInt(at));
    const view = ggml.ggml_view_2d(context, all, columns, rows, weightBytes(type, [columns]), slot * stride + at);
    ggml.ggml_backend_view_init(view);
    return view;
  }

  /** With room for the tensors of two slots. */
  #withTensors(work: (context: Pointer) => void): void {
    const metadata = this.#device.metadata(2 * this.parts.length);
    try {
      work(metadata.context);
    } finally {
      metadata.free();
    }
  }

  #place(part: Part): Placed {
    const device = this.#device;
    const { ggml } = device;
    const { type, rows, columns, storage, vector } = part;
    const exact = weightBytes(type, [rows, columns]);
    const stride = this.choosable ? exact : device.aligned(storage.bytes);
    const buffer = device.allocate(this.slots * stride + storage.bytes - exact, storage.memory.handle);
    if (device.pageBytes !== undefined) ggml.singlePages(buffer.base, buffer.bytes);
    // Kernels multiply what lies behind an expert by zero, be it of an empty slot, which only numbers come out of as zero.
    if (storage.memory.name === "plain" && storage.bytes > exact) ggml.ggml_backend_buffer_clear(buffer.handle, 0);
    const placed = { part, buffer, base: buffer.base, stride };
    if (!this.choosable) return { ...placed, all: undefined };
    const shape = vector ? ([columns, this.slots, 1] as const) : ([columns, rows, this.slots] as const);
    const all = ggml.ggml_new_tensor_4d(this.#metadata.context, numberOf(type), ...shape, 1);
    ggml.ggml_backend_tensor_alloc(buffer.handle, all, buffer.base);
    return { ...placed, all };
  }
}

/** What a generator returns, without a pause. */
export function atOnce<T>(work: Generator<void, T, void>): T {
  for (;;) {
    const { done, value } = work.next();
    if (done) return value;
  }
}

const addressOf = ({ base, stride }: Pick<Placed, "base" | "stride">, slot: number): Pointer => base + BigInt(slot * stride);
