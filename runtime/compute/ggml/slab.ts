// The memory of a GPU's experts: slabs, each with room for some experts of one shape and type in slots of equal size, so that one operation
// multiplies rows by the experts of their choice, whichever slots those are in.
import type { Segment } from "../../kernels/segment.ts";
import type { WeightData, Weights } from "../../kernels/weights.ts";
import type { DeviceBuffer, GgmlDevice } from "./device.ts";
import type { Pointer } from "./functions.ts";
import { ofChosen, type WeightSource } from "./lower.ts";
import { dimensions, numberOf, type WeightType, weightBytes } from "./types.ts";

/** Slots of a slab, at most. A call whose experts lie in two slabs takes two graphs. */
const slotsMax = 64;
/** Bytes of a slab, at most, but for one of a single expert: which devices bound. */
const slabBytesMax = 2 ** 30;

interface Matrix {
  readonly rows: number;
  readonly columns: number;
  /** Bytes of a slot. */
  readonly bytes: number;
  readonly buffer: DeviceBuffer;
  /** [columns, rows, slots]; of a bias [columns, slots]. */
  readonly all: Pointer;
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
    this.#metadata = device.metadata(segment.weights.length);
    try {
      for (const { name, shape, type } of types) this.#matrices.set(name, this.#matrix(type, shape));
    } catch (caught) {
      this.free();
      throw caught;
    }
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
    for (const [name, { all, bytes }] of this.#matrices) {
      const { data } = weights[name] as WeightData;
      this.#device.ggml.ggml_backend_tensor_set(all, data, index * bytes, data.byteLength);
    }
    return { slab: this, index };
  }

  /** Empties a slot. */
  drop(index: number): void {
    this.#used[index] = false;
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

  free(): void {
    for (const { buffer } of this.#matrices.values()) buffer.free();
    this.#device.release(this.#metadata);
  }

  #find(name: string): Matrix {
    const matrix = this.#matrices.get(name);
    if (matrix) return matrix;
    throw new TypeError(`weight ${name} is not of ${this.segment.name}`);
  }

  #matrix(type: WeightType, shape: readonly number[]): Matrix {
    const { ggml } = this.#device;
    const [rows, columns] = dimensions(shape);
    const bytes = weightBytes(type, shape);
    const slots = this.#used.length;
    const ne = shape.length === 2 ? ([columns, rows, slots] as const) : ([columns, slots, 1] as const);
    const all = ggml.ggml_new_tensor_4d(this.#metadata, numberOf(type), ...ne, 1);
    const buffer = this.#device.allocate(Math.max(bytes * slots, this.#device.bytesOf(all)));
    ggml.ggml_backend_tensor_alloc(buffer.handle, all, buffer.base);
    return { rows, columns, bytes, buffer, all };
  }
}

function noShared(name: string): never {
  throw new TypeError(`${name} is a weight of an expert, which rows do not share`);
}
