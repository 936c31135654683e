// The common part of all KV caches of ggml: per layer one tensor of keys and one of values, a row of all heads a position, keys rotated.
import { AppError } from "../../../crds/common.ts";
import type { KvGroup } from "../../kernels/kv-groups.ts";
import { type RopeTables, ropeTables } from "../../kernels/rope.ts";
import type { Rope } from "../../kernels/segment.ts";
import type { KvCache, KvCall, KvSpec } from "../backend.ts";
import { kvBlockBytes, kvBlocksOfContext, kvBytes, kvTypeRefuses } from "../kv-size.ts";
import type { GgmlDevice, Metadata } from "./device.ts";
import type { Pointer } from "./functions.ts";
import { buildGraph, type GraphBuilder, type Value } from "./graph.ts";
import { storedAs } from "./kv-types.ts";
import { numberOf, type WeightType } from "./types.ts";
import type { DeviceBuffer } from "./weight-memory.ts";

export interface KvTensor {
  readonly tensor: Pointer;
  readonly base: Pointer;
  /** Bytes of a head at one position. */
  readonly headBytes: number;
  /** Bytes of a position, all heads. */
  readonly rowBytes: number;
  /** Values of a head. */
  readonly dim: number;
}

export interface LayerTensors {
  readonly keys: KvTensor;
  readonly values: KvTensor;
}

/** Positions of a slot that lie one after the other: the first of them, its row in a layer's tensors, and how many there may be. */
export interface Piece {
  readonly position: number;
  readonly row: number;
  readonly count: number;
}

/** The rows of a layer's tensors that the attention of a group of rows looks at. */
export interface KvView {
  readonly first: number;
  readonly length: number;
  /** From the first row of one slot to that of the next; undefined where all rows look at the same ones. */
  readonly step: number | undefined;
}

/** Rows from one place to another. */
export interface RowCopy {
  readonly from: number;
  readonly to: number;
  readonly count: number;
}

let caches = 0;

/** Bytes of a position's keys and of its values in one layer. */
export const rowBytesOf = ({ kvHeads, headDim, valueDim, type = "f32" }: KvSpec): readonly number[] =>
  [headDim, valueDim].map((dim) => kvHeads * kvBytes(type, dim));

/** The reason why a cache of this shape cannot be, as an error. */
function checkType(device: GgmlDevice, spec: KvSpec): { readonly keys: WeightType; readonly values: WeightType } {
  const { type = "f32" } = spec;
  const stored = storedAs(device, type, spec);
  const refused =
    kvTypeRefuses(type, spec) ?? (stored === undefined ? `heads of these sizes are not kept as ${type} by this device` : undefined);
  if (stored !== undefined && refused === undefined) return stored;
  throw new AppError(`kvType: ${refused} (${device.description})`, { code: "UnsupportedShape", operation: "opening a model" });
}

export abstract class GgmlKv implements KvCache {
  /** Another number for each cache of a thread, since graphs are made for one. */
  readonly id = ++caches;
  readonly context: number;
  readonly bytes: number;
  readonly spec: KvSpec;
  /** Blocks that there is memory for. */
  readonly blocks: number;
  protected readonly device: GgmlDevice;
  readonly #stored: { readonly keys: WeightType; readonly values: WeightType };
  readonly #metadata: Metadata;
  readonly #buffers: DeviceBuffer[] = [];
  /** Tables of each rotation in use, by its numbers; few, since layers share them. */
  readonly #rotations = new Map<string, RopeTables & { readonly name: string }>();
  /** Inputs of a call, the same for all layers. */
  readonly #inputs = new WeakMap<KvCall, Map<string, NodeJS.TypedArray>>();
  #layers: readonly LayerTensors[] = [];

  constructor(device: GgmlDevice, spec: KvSpec, pageBytes: number) {
    this.device = device;
    this.spec = spec;
    this.#stored = checkType(device, spec);
    this.context = spec.context;
    this.blocks = spec.poolBlocks ?? spec.slots * kvBlocksOfContext(spec.context);
    this.bytes = this.blocks * kvBlockBytes(spec, pageBytes);
    this.#metadata = device.metadata(2 * spec.layers);
  }

  abstract readonly slots: number;
  abstract copySlot(from: number, to: number, length: number): Promise<void>;
  abstract moveSlot(from: number, to: number, length: number): Promise<void>;
  abstract trimSlot(slot: number, length: number): void;

  /** Where a slot's positions lie, in their order. */
  abstract piecesOf(slot: number): readonly Piece[];

  /** What the attention of a group looks at. */
  abstract viewOf(group: KvGroup): KvView;

  /** True where rows look at memory that holds what other slots wrote too. */
  abstract readonly shared: boolean;

  get layers(): readonly LayerTensors[] {
    return this.#layers;
  }

  /** Has so many layers, all in the memory of the first, for graphs that are built and not run. */
  repeatLayer(count: number): void {
    this.#layers = new Array<LayerTensors>(count).fill(this.#layers[0] as LayerTensors);
  }

  /** The array of that name for a call, made at the first layer that asks. */
  input(call: KvCall, name: string, make: () => NodeJS.TypedArray): NodeJS.TypedArray {
    const known = this.#inputs.get(call) ?? new Map<string, NodeJS.TypedArray>();
    this.#inputs.set(call, known);
    const array = known.get(name) ?? make();
    known.set(name, array);
    return array;
  }

  /** Tables for every position of the cache, and a short name for them. */
  rotation(rope: Rope): RopeTables & { readonly name: string } {
    const key = JSON.stringify(rope);
    const known = this.#rotations.get(key) ?? { ...ropeTables(this.context, rope), name: `${this.#rotations.size}` };
    this.#rotations.set(key, known);
    return known;
  }

  async dispose(): Promise<void> {
    this.freeBuffers();
    this.#metadata.free();
  }

  protected freeBuffers(): void {
    for (const buffer of this.#buffers.splice(0)) buffer.free();
  }

  /** Takes memory for so many rows in each layer, each tensor at a multiple of `alignment` bytes; `empty` sees to it that they read as
   *  numbers. Throws without having taken any. */
  protected hold(rows: number, alignment: number, empty: (buffer: DeviceBuffer) => void): void {
    const { headDim, valueDim } = this.spec;
    const { keys, values } = this.#stored;
    const sizes = [this.#bytesOf(keys, headDim, rows), this.#bytesOf(values, valueDim, rows)];
    try {
      for (let i = 0; i < this.spec.layers; i++) {
        for (const bytes of sizes) {
          const buffer = this.device.allocate(bytes + alignment);
          this.#buffers.push(buffer);
          empty(buffer);
        }
      }
    } catch (caught) {
      this.freeBuffers();
      throw caught;
    }
    this.#layers = Array.from({ length: this.spec.layers }, (_, layer) => ({
      keys: this.#place({ index: 2 * layer, type: keys, dim: headDim }, rows, alignment),
      values: this.#place({ index: 2 * layer + 1, type: values, dim: valueDim }, rows, alignment),
    }));
  }

  /** Frees the metadata of a cache that could not be made. */
  protected abandon(): void {
    this.#metadata.free();
  }

  /** Bytes that the device takes for so many rows, which may be more than they have. */
  #bytesOf(type: WeightType, dim: number, rows: number): number {
    const { ggml } = this.device;
    const metadata = this.device.metadata(1);
    const bytes = this.device.bytesOf(ggml.ggml_new_tensor_4d(metadata.context, numberOf(type), this.spec.kvHeads * dim, rows, 1, 1));
    metadata.free();
    return bytes;
  }

  #place(of: { readonly index: number; readonly type: WeightType; readonly dim: number }, rows: number, alignment: number): KvTensor {
    const { ggml } = this.device;
    const { handle, base: start } = this.#buffers[of.index] as DeviceBuffer;
    const step = BigInt(alignment);
    const base = ((start + step - 1n) / step) * step;
    const { kvHeads, type = "f32" } = this.spec;
    const tensor = ggml.ggml_new_tensor_4d(this.#metadata.context, numberOf(of.type), kvHeads * of.dim, rows, 1, 1);
    ggml.ggml_backend_tensor_alloc(handle, tensor, base);
    const headBytes = kvBytes(type, of.dim);
    return { tensor, base, headBytes, rowBytes: kvHeads * headBytes, dim: of.dim };
  }

  protected copyRows(layers: readonly LayerTensors[], copies: readonly RowCopy[]): void {
    const { ggml } = this.device;
    const rows = (build: GraphBuilder, { tensor, rowBytes, dim }: KvTensor, first: number, count: number): Value =>
      build.view(
        ggml.ggml_view_2d(build.context, tensor, this.spec.kvHeads * dim, count, rowBytes, first * rowBytes),
        build.constant(tensor),
      );
    const graph = buildGraph(this.device, 8 * layers.length * Math.max(1, copies.length), (build) => {
      for (const each of layers.flatMap(({ keys, values }) => [keys, values])) {
        for (const { from, to, count } of copies) {
          const [source, target] = [rows(build, each, from, count), rows(build, each, to, count)];
          build.effect(ggml.ggml_cpy(build.context, source.tensor, target.tensor), []);
        }
      }
      return {};
    });
    try {
      graph.run(() => undefined);
    } finally {
      graph.free();
    }
  }
}
