// The memory of experts: slabs, each with room for some experts of one shape and type in slots of equal size, so that one operation
// multiplies rows by the experts of their choice, whichever slots those are in. Memory is taken from the machine as slots are written
// and given back as they are emptied.
import type { Segment } from "../../kernels/segment.ts";
import type { WeightData, Weights } from "../../kernels/weights.ts";
import type { DeviceBuffer, GgmlDevice } from "./device.ts";
import type { Pointer } from "./functions.ts";
import type { GraphBuilder, Value } from "./graph.ts";
import { ofChosen, type WeightSource } from "./lower.ts";
import { dimensions, multipliesExactly, numberOf, type WeightType, weightBytes } from "./types.ts";

/** Slots of a slab, at most. A call whose experts lie in two slabs takes two graphs. */
const slotsMax = 64;
/** Bytes of a slab, at most, but for one of a single expert: address space alone, until slots are written, which some machines bound. */
const slabBytesMax = 2 ** 30;

interface Matrix {
  readonly type: WeightType;
  readonly rows: number;
  readonly columns: number;
  /** Bytes of a slot. */
  readonly bytes: number;
  readonly buffer: DeviceBuffer;
  readonly packed: boolean;
  /** [columns, rows, slots]; of a bias [columns, slots]. */
  readonly all: Pointer;
  /** The same memory, a tensor for each slot; none on devices that compute no expert alone. */
  readonly one: readonly Pointer[];
}

/** An expert in its slot. */
export interface Slot {
  readonly slab: Slab;
  readonly index: number;
}

export class Slab {
  readonly segment: Segment;
  /** Bytes of one expert. */
  readonly expertBytes: number;
  /** True where all its types give the same bits by `mul_mat` on one expert as by `mul_mat_id` on many. */
  readonly exactAlone: boolean;
  readonly #device: GgmlDevice;
  readonly #metadata: Pointer;
  readonly #matrices = new Map<string, Matrix>();
  readonly #used: boolean[];

  constructor(device: GgmlDevice, segment: Segment, weights: Weights) {
    this.#device = device;
    this.segment = segment;
    const types = segment.weights.map(({ name, shape }) => ({ name, shape, type: (weights[name] as WeightData).form }));
    this.expertBytes = types.reduce((sum, { shape, type }) => sum + weightBytes(type, shape), 0);
    const slots = Math.max(1, Math.min(slotsMax, Math.floor(Math.min(slabBytesMax, device.largestBytes) / this.expertBytes)));
    this.#used = new Array<boolean>(slots).fill(false);
    this.#metadata = device.metadata(2 * (slots + 1) * segment.weights.length);
    try {
      for (const { name, shape, type } of types) this.#matrices.set(name, this.#matrix(type, shape));
    } catch (caught) {
      this.free();
      throw caught;
    }
    const matrices = [...this.#matrices.values()];
    // Where bits are free, one operation for all has kernels of its own for many rows.
    this.exactAlone = device.exact && matrices.every(({ type, rows, packed }) => rows === 1 || multipliesExactly(type, packed));
  }

  get empty(): boolean {
    return !this.#used.includes(true);
  }
  get full(): boolean {
    return !this.#used.includes(false);
  }

  /** Writes an expert into the lowest free slot. */
  put(weights: Weights): Slot {
    this.#device.assertOpen();
    const index = this.#used.indexOf(false);
    this.#used[index] = true;
    for (const [name, { all, one, bytes }] of this.#matrices) {
      const { data } = weights[name] as WeightData;
      const [tensor, offset] = one.length > 0 ? [one[index] as Pointer, 0] : [all, index * bytes];
      this.#device.ggml.ggml_backend_tensor_set(tensor, data, offset, data.byteLength);
    }
    return { slab: this, index };
  }

  /** Empties a slot and gives its pages back. */
  drop(index: number): void {
    this.#used[index] = false;
    for (const { buffer, bytes } of this.#matrices.values()) this.#device.discard(buffer.base + BigInt(index * bytes), bytes);
  }

  /** Rows of many experts: the graph's input `slots` [1, rows] says which slot each row is for. */
  ofSlots(): WeightSource {
    return {
      multiply: (build, name, x, rows) => {
        const { all, rows: n, columns: k } = this.#find(name);
        const { ggml } = this.#device;
        const ids = build.input("slots", "i32", [1, rows]);
        return ofChosen(build, x, { from: k, to: n, rows }, (apart) =>
          build.step(ggml.ggml_mul_mat_id(build.context, all, apart.tensor, ids.tensor), [apart, ids]),
        );
      },
      addRow: (build, name, x, rows) => {
        const { all, columns } = this.#find(name);
        const { ggml } = this.#device;
        const ids = build.input("slots", "i32", [1, rows]);
        return ofChosen(build, x, { from: columns, to: columns, rows }, (apart) =>
          build.step(ggml.ggml_add_id(build.context, apart.tensor, all, ids.tensor), [apart, ids]),
        );
      },
      tensor: noShared,
    };
  }

  /** Rows of one expert. */
  ofOne(index: number): WeightSource {
    const tensor = (name: string): Pointer => this.#find(name).one[index] as Pointer;
    const { ggml } = this.#device;
    return {
      multiply: (build: GraphBuilder, name: string, x: Value) => build.step(ggml.ggml_mul_mat(build.context, tensor(name), x.tensor), [x]),
      addRow: (build: GraphBuilder, name: string, x: Value) => build.step(ggml.ggml_add(build.context, x.tensor, tensor(name)), [x]),
      tensor,
    };
  }

  free(): void {
    for (const { buffer } of this.#matrices.values()) buffer.free();
    this.#device.release(this.#metadata);
  }

  #find(name: string): Matrix {
    const matrix = this.#matrices.get(name);
    if (matrix) return matrix;
    throw new TypeError(`weight ${name} is not of ${this.segment.name}`);
  }

  /** In packed memory where the device multiplies by it there, else in plain memory. */
  #matrix(type: WeightType, shape: readonly number[]): Matrix {
    const { packedMemory } = this.#device;
    const packed = shape.length === 2 && type !== "f32" && packedMemory !== undefined && this.#place(type, shape, packedMemory);
    if (packed && this.#multiplies(packed)) return packed;
    if (packed) packed.buffer.free();
    return this.#place(type, shape, this.#device.plainMemory);
  }

  #place(type: WeightType, shape: readonly number[], memory: Pointer): Matrix {
    const { ggml } = this.#device;
    const [rows, columns] = dimensions(shape);
    const bytes = weightBytes(type, shape);
    const slots = this.#used.length;
    const make = (...ne: readonly [number, number, number]): Pointer => ggml.ggml_new_tensor_4d(this.#metadata, numberOf(type), ...ne, 1);
    const all = shape.length === 2 ? make(columns, rows, slots) : make(columns, slots, 1);
    const buffer = this.#device.allocate(Math.max(bytes * slots, this.#device.bytesOf(all)), memory);
    const place = (tensor: Pointer, slot: number): Pointer => {
      ggml.ggml_backend_tensor_alloc(buffer.handle, tensor, buffer.base + BigInt(slot * bytes));
      return tensor;
    };
    place(all, 0);
    // A slot alone is used where experts are multiplied one by one, and begins nowhere that every device could reach.
    const one = this.#device.exact ? Array.from({ length: slots }, (_, slot) => place(make(columns, rows, 1), slot)) : [];
    return { type, rows, columns, bytes, buffer, packed: memory !== this.#device.plainMemory, all, one };
  }

  /** Asks the device for both ways in which a packed matrix is multiplied. */
  #multiplies({ all, one, columns }: Matrix): boolean {
    const { ggml } = this.#device;
    const context = this.#device.metadata(4);
    const x = ggml.ggml_new_tensor_4d(context, numberOf("f32"), columns, 1, 1, 1);
    const ids = ggml.ggml_new_tensor_4d(context, numberOf("i32"), 1, 1, 1, 1);
    const nodes = [ggml.ggml_mul_mat_id(context, all, x, ids), ggml.ggml_mul_mat(context, one[0] as Pointer, x)];
    const both = nodes.every((node) => this.#device.supports(node));
    this.#device.release(context);
    return both;
  }
}

function noShared(name: string): never {
  throw new TypeError(`${name} is a weight of an expert, which rows do not share`);
}
