// The common part of ggml's KV caches: per layer one tensor of rotated keys and one of values, with a row of all heads per position.
import { AppError } from "../../../crds/common.ts";
import type { KvGroup } from "../../kernels/kv-groups.ts";
import { type RopeTables, ropeTables } from "../../kernels/rope.ts";
import type { Rope } from "../../kernels/segment.ts";
import type { KvCache, KvCall, KvSpec } from "../backend.ts";
import { checkCopy } from "../call-checks.ts";
import { kvBlockBytes, kvBlocksOfContext, kvBytes, kvPositionBytes, kvRowBytes, kvTypeRefuses } from "../kv-size.ts";
import type { GgmlDevice, Metadata } from "./device.ts";
import type { Pointer } from "./functions.ts";
import { buildGraph, type GraphBuilder, type Value } from "./graph.ts";
import { storedAs, storedName } from "./kv-types.ts";
import { numberOf, type WeightType } from "./types.ts";
import type { DeviceBuffer } from "./weight-memory.ts";

export interface KvTensor {
  readonly tensor: Pointer;
  /** The rows without what lies between them. */
  readonly rows: Pointer;
  readonly base: Pointer;
  readonly headBytes: number;
  readonly rowBytes: number;
  readonly dim: number;
}

export interface LayerTensors {
  readonly keys: KvTensor;
  readonly values: KvTensor;
}

/** Consecutive positions of a slot, and their row in a layer's tensors. */
export interface Piece {
  readonly position: number;
  readonly row: number;
  readonly count: number;
}

interface KvView {
  readonly first: number;
  readonly length: number;
  /** Between the first rows of consecutive slots; undefined where all read the same rows. */
  readonly step: number | undefined;
}

/** Streams of a group that one operation reads: `at` is the first of them. */
export interface KvRun extends KvView {
  readonly at: number;
  readonly batch: number;
}

export interface GroupShape extends KvView {
  readonly index: number;
  readonly run: KvRun;
  readonly from: number;
  readonly batch: number;
  readonly tokens: number;
}

export interface RowCopy {
  readonly from: number;
  readonly to: number;
  readonly count: number;
}

interface RowsPart {
  readonly row: number;
  readonly count: number;
  readonly at: number;
  readonly bytes: number;
}

let caches = 0;

export const rowBytesOf = (spec: KvSpec, pageBytes: number): readonly number[] =>
  [spec.headDim, spec.valueDim].map((dim) => kvRowBytes(spec, dim, pageBytes));

function checkType(device: GgmlDevice, spec: KvSpec): { readonly keys: WeightType; readonly values: WeightType } {
  const { type = "f32" } = spec;
  const stored = storedAs(device, type, spec);
  const refused =
    kvTypeRefuses(type, spec) ?? (stored === undefined ? `heads of these sizes are not kept as ${type} by this device` : undefined);
  if (stored !== undefined && refused === undefined) return stored;
  throw new AppError(`kvType: ${refused} (${device.description})`, { code: "UnsupportedShape", operation: "opening a model" });
}

export abstract class GgmlKv implements KvCache {
  /** Unique per thread, since graphs belong to one cache. */
  readonly id = ++caches;
  readonly context: number;
  readonly bytes: number;
  readonly positionBytes: number;
  readonly spec: KvSpec;
  readonly blocks: number;
  protected readonly device: GgmlDevice;
  readonly #pageBytes: number;
  readonly #stored: { readonly keys: WeightType; readonly values: WeightType };
  readonly #metadata: Metadata;
  readonly #buffers: DeviceBuffer[] = [];
  readonly #rotations = new Map<string, { readonly name: string; readonly tables: () => RopeTables }>();
  readonly #inputs = new WeakMap<KvCall, Map<string, NodeJS.TypedArray>>();
  #layers: readonly LayerTensors[] = [];

  constructor(device: GgmlDevice, spec: KvSpec, pageBytes: number) {
    this.device = device;
    this.#pageBytes = pageBytes;
    this.spec = spec;
    this.#stored = checkType(device, spec);
    this.context = spec.context;
    this.positionBytes = kvPositionBytes(spec);
    this.blocks = spec.poolBlocks ?? spec.slots * kvBlocksOfContext(spec.context);
    this.bytes = this.blocks * kvBlockBytes(spec, pageBytes);
    this.#metadata = device.metadata(4 * spec.layers);
  }

  abstract readonly slots: number;
  abstract copySlot(from: number, to: number, length: number): Promise<void>;
  abstract moveSlot(from: number, to: number, length: number): Promise<void>;
  abstract trimSlot(slot: number, length: number): void;

  abstract piecesOf(slot: number): readonly Piece[];

  readRows(slot: number, from: number, count: number): Uint8Array {
    checkCopy(this, slot, slot, from + count);
    const { ggml } = this.device;
    const rows = new Uint8Array(count * this.positionBytes);
    this.#eachPart(slot, { from, count }, ({ tensor, rowBytes }, { row, count: held, at, bytes }) => {
      const stored = rowBytes * held === bytes ? rows.subarray(at, at + bytes) : new Uint8Array(rowBytes * held);
      ggml.ggml_backend_tensor_get(tensor, stored, row * rowBytes, stored.byteLength);
      const own = bytes / held;
      if (rowBytes > own) for (let i = 0; i < held; i++) rows.set(stored.subarray(i * rowBytes, i * rowBytes + own), at + i * own);
    });
    return rows;
  }

  writeRows(slot: number, from: number, rows: Uint8Array): void {
    const count = rows.byteLength / this.positionBytes;
    checkCopy(this, slot, slot, from + count);
    const { ggml } = this.device;
    this.#eachPart(slot, { from, count }, ({ tensor, rowBytes }, { row, count: held, at, bytes }) => {
      const own = bytes / held;
      const stored = rowBytes === own ? rows.subarray(at, at + bytes) : new Uint8Array(rowBytes * held);
      if (rowBytes > own) for (let i = 0; i < held; i++) stored.set(rows.subarray(at + i * own, at + (i + 1) * own), i * rowBytes);
      ggml.ggml_backend_tensor_set(tensor, stored, row * rowBytes, stored.byteLength);
    });
  }

  /** Consecutive rows of each tensor that hold these positions, and their bytes among all of them. */
  #eachPart(
    slot: number,
    { from, count }: { readonly from: number; readonly count: number },
    visit: (tensor: KvTensor, part: RowsPart) => void,
  ): void {
    const pieces = this.piecesOf(slot).flatMap((piece) => {
      const [first, end] = [Math.max(from, piece.position), Math.min(from + count, piece.position + piece.count)];
      return first < end ? [{ row: piece.row + first - piece.position, count: end - first }] : [];
    });
    let at = 0;
    for (const tensor of this.layers.flatMap(({ keys, values }) => [keys, values])) {
      for (const piece of pieces) {
        const bytes = piece.count * this.spec.kvHeads * tensor.headBytes;
        visit(tensor, { ...piece, at, bytes });
        at += bytes;
      }
    }
  }

  /** In the order of the group's streams, all of them. */
  abstract runsOf(group: KvGroup): readonly KvRun[];

  /** True where rows read memory that other slots wrote, too. */
  abstract readonly shared: boolean;

  /** True where attention is computed by products, whose sums follow the order of positions. */
  abstract readonly byProducts: boolean;

  get stored(): string {
    return storedName(this.spec.type ?? "f32", this.#stored);
  }

  get layers(): readonly LayerTensors[] {
    return this.#layers;
  }

  /** Aliases the first layer's memory, for graphs that never run. */
  repeatLayer(count: number): void {
    this.#layers = new Array<LayerTensors>(count).fill(this.#layers[0] as LayerTensors);
  }

  input(call: KvCall, name: string, make: () => NodeJS.TypedArray): NodeJS.TypedArray {
    const known = this.#inputs.get(call) ?? new Map<string, NodeJS.TypedArray>();
    this.#inputs.set(call, known);
    const array = known.get(name) ?? make();
    known.set(name, array);
    return array;
  }

  rotation(rope: Rope): { readonly name: string; readonly tables: () => RopeTables } {
    const key = JSON.stringify(rope);
    let made: RopeTables | undefined;
    const tables = (): RopeTables => {
      made ??= ropeTables(this.context, rope);
      return made;
    };
    const known = this.#rotations.get(key) ?? { name: `${this.#rotations.size}`, tables };
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

  /** `empty` must make rows read as numbers. Allocates nothing if it throws. */
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

  protected abandon(): void {
    this.#metadata.free();
  }

  /** The device may allocate more than the rows need. */
  #bytesOf(type: WeightType, dim: number, rows: number): number {
    const { ggml } = this.device;
    const metadata = this.device.metadata(1);
    const bytes = this.device.bytesOf(ggml.ggml_new_tensor_4d(metadata.context, numberOf(type), this.#rowValues(type, dim), rows, 1, 1));
    metadata.free();
    return bytes;
  }

  #rowValues(type: WeightType, dim: number): number {
    return type === "f32" ? kvRowBytes(this.spec, dim, this.#pageBytes) / Float32Array.BYTES_PER_ELEMENT : this.spec.kvHeads * dim;
  }

  #place(of: { readonly index: number; readonly type: WeightType; readonly dim: number }, rows: number, alignment: number): KvTensor {
    const { ggml } = this.device;
    const { handle, base: start } = this.#buffers[of.index] as DeviceBuffer;
    const step = BigInt(alignment);
    const base = ((start + step - 1n) / step) * step;
    const { kvHeads, type = "f32" } = this.spec;
    const tensor = ggml.ggml_new_tensor_4d(this.#metadata.context, numberOf(of.type), this.#rowValues(of.type, of.dim), rows, 1, 1);
    ggml.ggml_backend_tensor_alloc(handle, tensor, base);
    const rowBytes = kvRowBytes(this.spec, of.dim, this.#pageBytes);
    const headBytes = kvBytes(type, of.dim);
    const close = rowBytes === kvHeads * headBytes;
    const own = close ? tensor : ggml.ggml_view_2d(this.#metadata.context, tensor, kvHeads * of.dim, rows, rowBytes, 0);
    if (!close) ggml.ggml_backend_view_init(own);
    return { tensor, rows: own, base, headBytes, rowBytes, dim: of.dim };
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
