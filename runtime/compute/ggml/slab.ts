// Memory for experts of one shape and type, in slots of equal size (../DECISIONS.md 5).
import type { Weights } from "../../kernels/weights.ts";
import type { Pause } from "../backend.ts";
import type { GgmlDevice, Metadata, TensorWrite } from "./device.ts";
import { columnsOf, type Part, type Product, partIndex, piecesOf } from "./expert-matrices.ts";
import type { Pointer } from "./functions.ts";
import type { GraphBuilder, Value } from "./graph.ts";
import { largePageBytes } from "./large-pages.ts";
import type { WeightSource } from "./lowering.ts";
import { storagesOf } from "./matrix-storage.ts";
import { numberOf, weightBytes } from "./types.ts";
import type { DeviceBuffer } from "./weight-memory.ts";

interface Placed {
  readonly part: Part;
  readonly buffer: DeviceBuffer;
  readonly base: Pointer;
  readonly stride: number;
  /** [columns, rows, slots], a bias [columns, slots]; undefined in memory without row-wise choice. */
  readonly all: Pointer | undefined;
}

interface Rows {
  readonly slot: number;
  readonly rows: number;
  readonly at: number;
}

/** Rows that each use k experts. */
export interface Chosen {
  /** Slots, [k, rows]. */
  readonly ids: Value;
  readonly k: number;
  readonly rows: number;
  readonly shared: Value;
}

export class Slab {
  readonly parts: readonly Part[];
  readonly slots: number;
  readonly expertBytes: number;
  readonly choosable: boolean;
  readonly #device: GgmlDevice;
  readonly #metadata: Metadata;
  readonly #placed: readonly Placed[];
  /** Also 1 while an expert is being written. */
  readonly #taken: Uint8Array;
  readonly #used: Uint8Array;
  readonly #addresses: (readonly Pointer[])[] = [];
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

  get used(): number {
    return this.#count;
  }

  isTaken(slot: number): boolean {
    return this.#taken[slot] === 1;
  }

  get idle(): boolean {
    return !this.#taken.includes(1);
  }

  /** -1 when there is none. */
  get empty(): number {
    return this.#taken.indexOf(0);
  }

  put(slot: number, weights: Weights): void {
    for (const pieces of this.#writing(slot, weights))
      for (const { tensor, data } of pieces) this.#device.ggml.ggml_backend_tensor_set(tensor, data, 0, data.byteLength);
  }

  /** Packs on other threads, and pauses until then. */
  async putApart(slot: number, weights: Weights, pause: Pause): Promise<void> {
    for (const pieces of this.#writing(slot, weights)) await pause(this.#device.setApart(pieces));
  }

  /** The slot is an expert's once its pieces were written. */
  *#writing(slot: number, weights: Weights): Generator<readonly TensorWrite[], void, void> {
    const device = this.#device;
    device.assertOpen();
    const pieces = this.#placed.flatMap((placed) => piecesOf(placed.part, weights).map((piece) => ({ placed, piece })));
    const metadata = device.metadata(2 * pieces.length);
    this.#taken[slot] = 1;
    try {
      // Packing may need more memory than the file's matrix; densely packed slots never do.
      for (const placed of this.#placed)
        device.warmPages.claim(addressOf(placed, slot), this.choosable ? placed.stride : placed.part.storage.bytes);
      yield pieces.map(({ placed, piece: { rows, at, data } }) => {
        return { tensor: this.#tensor(metadata.context, placed, { slot, rows, at }), data };
      });
      device.assertOpen();
      this.#mark(slot, true);
      this.#settle(slot);
    } finally {
      metadata.free();
      if (!this.#used[slot]) this.drop(slot);
    }
  }

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

  drop(slot: number): void {
    this.#mark(slot, false);
    for (const placed of this.#placed) {
      this.#device.largePages.leave(addressOf(placed, slot), placed.stride);
      // A page that is shared with an empty slot is free too.
      const [before, after] = [slot - 1, slot + 1].map((other) => (this.#taken[other] === 0 ? this.#edgeBytes(placed) : 0)) as [
        number,
        number,
      ];
      this.#device.warmPages.keep(addressOf(placed, slot) - BigInt(before), before + placed.stride + after);
    }
  }

  /** The address of each part; the array is the same in each call. */
  addresses(slot: number): readonly Pointer[] {
    this.#addresses[slot] ??= this.#placed.map((placed) => addressOf(placed, slot));
    return this.#addresses[slot];
  }

  of({ ids, k, rows, shared }: Chosen): WeightSource {
    const products = new Map<Placed, Product>();
    const find = (name: string): Placed & { readonly all: Pointer } => {
      const placed = this.#placed[partIndex(this.parts, name)];
      if (placed?.all !== undefined) return { ...placed, all: placed.all };
      throw new TypeError(`weight ${name} is not one of which rows choose`);
    };
    const views = new Map<Value, Value>();
    const multiply = (build: GraphBuilder, { part, all }: Placed & { readonly all: Pointer }, x: Value): Value => {
      const { ggml, exact } = build.device;
      const per = x === shared ? 1 : k;
      const apart = views.get(x) ?? build.view(ggml.ggml_reshape_3d(build.context, x.tensor, part.columns, per, rows), x);
      if (!exact) views.set(x, apart);
      const product = build.step(ggml.ggml_mul_mat_id(build.context, all, apart.tensor, ids.tensor), [apart, ids]);
      // A view between two products would keep a device from making one kernel of them and of what follows.
      return exact ? build.view(ggml.ggml_reshape_2d(build.context, product.tensor, part.rows, k * rows), product) : product;
    };
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
        const { ggml, exact } = build.device;
        const { part, all } = find(name);
        if (!exact) return build.step(ggml.ggml_add_id(build.context, x.tensor, all, ids.tensor), [x, ids]);
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

  /** Apart from `writing`, whose weights a closure there would hold. */
  #settle(slot: number): void {
    for (const placed of this.#placed)
      this.#device.largePages.settle(addressOf(placed, slot), placed.stride, (page) => this.#isFull(placed, page));
  }

  /** Whether experts take all of a large page. */
  #isFull({ base, stride }: Placed, page: Pointer): boolean {
    const from = Math.floor(Number(page - base) / stride);
    const to = Math.ceil((Number(page - base) + largePageBytes) / stride);
    return from >= 0 && to <= this.slots && !this.#used.subarray(from, to).includes(0);
  }

  #edgeBytes({ stride }: Placed): number {
    return Math.min((this.#device.pageBytes ?? 1) - 1, stride);
  }

  #mark(slot: number, used: boolean): void {
    this.#count += Number(used) - (this.#used[slot] ?? 0);
    this.#used[slot] = Number(used);
    this.#taken[slot] = Number(used);
  }

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
    // Kernels multiply the bytes behind an expert by zero, so they must be numbers.
    const clears = storage.memory.name === "plain" && storage.bytes > exact;
    const bytes = this.slots * stride + storage.bytes - exact;
    const step = device.pageBytes === undefined || clears || bytes < largePageBytes ? 1 : largePageBytes;
    const buffer = device.allocate(bytes + step - 1, storage.memory.handle);
    if (device.pageBytes !== undefined) ggml.singlePages(buffer.base, buffer.bytes);
    if (clears) ggml.ggml_backend_buffer_clear(buffer.handle, 0);
    const placed = { part, buffer, base: ((buffer.base + BigInt(step) - 1n) / BigInt(step)) * BigInt(step), stride };
    if (!this.choosable) return { ...placed, all: undefined };
    const shape = vector ? ([columns, this.slots, 1] as const) : ([columns, rows, this.slots] as const);
    const all = ggml.ggml_new_tensor_4d(this.#metadata.context, numberOf(type), ...shape, 1);
    ggml.ggml_backend_tensor_alloc(buffer.handle, all, placed.base);
    return { ...placed, all };
  }
}

const addressOf = ({ base, stride }: Pick<Placed, "base" | "stride">, slot: number): Pointer => base + BigInt(slot * stride);
