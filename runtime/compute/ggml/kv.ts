// The KV cache of ggml: per layer one tensor of keys and one of values, a row of all heads a position, [slot][stride][kvHeads * headDim].
// Keys are stored rotated. On the processor slots are address space alone: pages are taken from the machine as rows are written, and given
// back as slots are trimmed. And the part of a graph that reads and writes it: where new rows go, what attention may see.
import { AppError } from "../../../crds/common.ts";
import type { KvType } from "../../../crds/names.ts";
import { type KvGroup, type Place, placesOf, rowsOfGroup, rowsOfGroups } from "../../kernels/kv-groups.ts";
import { type RopeTables, ropeTables } from "../../kernels/rope.ts";
import type { Rope } from "../../kernels/segment.ts";
import type { KvCache, KvCall, KvSpec } from "../backend.ts";
import { checkCopy } from "../check.ts";
import { kvBlockBytes, kvBlocksOfContext, kvBytes, kvTypeRefuses } from "../kv-size.ts";
import type { DeviceBuffer, GgmlDevice } from "./device.ts";
import type { Pointer } from "./functions.ts";
import { buildGraph, type GraphBuilder, type Value } from "./graph.ts";
import { numberOf, type WeightType } from "./types.ts";

/** Attention looks at a multiple of so many positions, so that a graph lasts for as many steps; what lies beyond a row's own is masked. */
const lengthStep = 64;
/** Address space of all slots, bytes at most: what is not written costs nothing, but some machines bound it. */
const addressBytesMax = 2 ** 40;
const maskedOut = 0xfc00; // minus infinity in f16

interface KvTensor {
  readonly tensor: Pointer;
  readonly base: Pointer;
  /** Bytes of a head at one position. */
  readonly headBytes: number;
  /** Bytes of a position, all heads. */
  readonly rowBytes: number;
  /** Values of a head. */
  readonly dim: number;
}

interface LayerTensors {
  readonly keys: KvTensor;
  readonly values: KvTensor;
}

/** How keys and values are stored. Beside keys of f16 lie values of bf16: ggml sums values of f16 in f16, where the sum of some thousand
 *  of them stands still or overflows; those of bf16 it sums in f32, with the same error at any length. */
const stored = {
  f32: { keys: "f32", values: "f32" },
  f16: { keys: "f16", values: "bf16" },
  q8_0: { keys: "q8_0", values: "q8_0" },
} as const satisfies Readonly<Record<KvType, Record<keyof LayerTensors, WeightType>>>;

let caches = 0;

/** Bytes of a position's keys and of its values in one layer. */
const rowBytesOf = ({ kvHeads, headDim, valueDim }: KvSpec, type: KvType): readonly number[] =>
  [headDim, valueDim].map((dim) => kvHeads * kvBytes(type, dim));

/** Positions from one slot to the next: the context, and so many more that slots begin at pages in every tensor. */
function strideOf(context: number, rowBytes: readonly number[], pageBytes: number): number {
  const tokens = rowBytes.reduce((most, bytes) => {
    let step = 1;
    while ((step * bytes) % pageBytes !== 0) step *= 2; // pages are powers of two
    return Math.max(most, step);
  }, 1);
  return Math.ceil(context / tokens) * tokens;
}

export class GgmlKv implements KvCache {
  /** Another number for each cache of a thread, since graphs are made for one. */
  readonly id = ++caches;
  readonly slots: number;
  readonly context: number;
  readonly bytes: number;
  readonly spec: KvSpec;
  readonly layers: readonly LayerTensors[];
  /** Positions from one slot to the next. */
  readonly stride: number;
  readonly #type: KvType;
  readonly #device: GgmlDevice;
  readonly #metadata: Pointer;
  readonly #buffers: DeviceBuffer[] = [];
  /** Tables of each rotation in use, by its numbers; few, since layers share them. */
  readonly #rotations = new Map<string, RopeTables & { readonly name: string }>();
  /** Inputs of a call, the same for all layers. */
  readonly #inputs = new WeakMap<KvCall, Map<string, NodeJS.TypedArray>>();

  constructor(device: GgmlDevice, spec: KvSpec) {
    const { pageBytes } = device;
    this.#device = device;
    this.spec = spec;
    this.#type = spec.type ?? "f32";
    const refused = kvTypeRefuses(this.#type, spec);
    if (refused !== undefined) throw new AppError(`kvType: ${refused}`, { code: "UnsupportedShape", operation: "opening a model" });
    this.context = spec.context;
    const blocks = spec.poolBlocks ?? spec.slots * kvBlocksOfContext(spec.context, pageBytes);
    this.bytes = blocks * kvBlockBytes(spec, pageBytes);
    const rowBytes = rowBytesOf(spec, this.#type);
    this.stride = strideOf(spec.context, rowBytes, pageBytes ?? 1);
    const slotBytes = spec.layers * this.stride * rowBytes.reduce((sum, bytes) => sum + bytes, 0);
    this.#metadata = device.metadata(2 * spec.layers);
    this.slots = this.#reserve(Math.max(1, Math.min(spec.slots, Math.floor(addressBytesMax / slotBytes))), rowBytes);
    const { keys, values } = stored[this.#type];
    this.layers = Array.from({ length: spec.layers }, (_, layer) => ({
      keys: this.#place(2 * layer, keys, spec.headDim),
      values: this.#place(2 * layer + 1, values, spec.valueDim),
    }));
  }

  async copySlot(from: number, to: number, length: number): Promise<void> {
    checkCopy(this, from, to, length);
    if (length > 0 && from !== to) this.#copy(this.layers, from, to, length);
  }

  async moveSlot(from: number, to: number, length: number): Promise<void> {
    checkCopy(this, from, to, length);
    if (from === to) return this.trimSlot(from, length);
    for (const layer of this.layers) {
      if (length > 0) this.#copy([layer], from, to, length);
      this.#trim([layer], from, 0);
    }
  }

  trimSlot(slot: number, length: number): void {
    checkCopy(this, slot, slot, length);
    this.#trim(this.layers, slot, length);
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
    for (const buffer of this.#buffers) buffer.free();
    this.#device.release(this.#metadata);
  }

  /** Where slots may begin: at pages, where there are some. */
  get #alignment(): number {
    return Math.max(this.#device.pageBytes ?? 1, this.#device.alignment);
  }

  /** Takes the address space of so many slots, or of half as many, and so on, where the machine does not give it. */
  #reserve(slots: number, rowBytes: readonly number[]): number {
    try {
      for (let i = 0; i < this.spec.layers; i++) {
        for (const bytes of rowBytes) {
          const buffer = this.#device.allocate(slots * this.stride * bytes + this.#alignment);
          this.#buffers.push(buffer);
          this.#empty(buffer);
        }
      }
      return slots;
    } catch (caught) {
      for (const buffer of this.#buffers.splice(0)) buffer.free();
      if (slots > 1 && AppError.from(caught).code === "OutOfMemory") return this.#reserve(slots >> 1, rowBytes);
      this.#device.release(this.#metadata);
      throw caught;
    }
  }

  /** Memory that the allocator had before may hold any numbers, and what is masked is multiplied on some devices. */
  #empty({ handle, base, bytes }: DeviceBuffer): void {
    const { ggml, pageBytes } = this.#device;
    if (pageBytes === undefined) {
      ggml.ggml_backend_buffer_clear(handle, 0);
      return;
    }
    ggml.singlePages(base, bytes);
    this.#device.discard(base, bytes);
  }

  #place(index: number, type: WeightType, dim: number): KvTensor {
    const { ggml } = this.#device;
    const { handle, base: start } = this.#buffers[index] as DeviceBuffer;
    const step = BigInt(this.#alignment);
    const base = ((start + step - 1n) / step) * step;
    const { kvHeads } = this.spec;
    const tensor = ggml.ggml_new_tensor_4d(this.#metadata, numberOf(type), kvHeads * dim, this.slots * this.stride, 1, 1);
    ggml.ggml_backend_tensor_alloc(handle, tensor, base);
    const headBytes = kvBytes(this.#type, dim);
    return { tensor, base, headBytes, rowBytes: kvHeads * headBytes, dim };
  }

  #copy(layers: readonly LayerTensors[], from: number, to: number, length: number): void {
    const { ggml } = this.#device;
    const slot = (build: GraphBuilder, { tensor, rowBytes, dim }: KvTensor, index: number): Value => {
      const offset = index * this.stride * rowBytes;
      return build.view(
        ggml.ggml_view_2d(build.context, tensor, this.spec.kvHeads * dim, length, rowBytes, offset),
        build.constant(tensor),
      );
    };
    const graph = buildGraph(this.#device, 8 * layers.length, (build) => {
      for (const each of layers.flatMap(({ keys, values }) => [keys, values])) {
        const [source, target] = [slot(build, each, from), slot(build, each, to)];
        build.effect(ggml.ggml_cpy(build.context, source.tensor, target.tensor), []);
      }
      return {};
    });
    try {
      graph.run(() => undefined);
    } finally {
      graph.free();
    }
  }

  #trim(layers: readonly LayerTensors[], slot: number, length: number): void {
    for (const { base, rowBytes } of layers.flatMap(({ keys, values }) => [keys, values])) {
      this.#device.discard(base + BigInt((slot * this.stride + length) * rowBytes), (this.stride - length) * rowBytes);
    }
  }
}

/** Positions that a graph looks at for a group of a call. */
function lengthOf({ past, tokens }: KvGroup, context: number): number {
  const longest = past.reduce((most, length) => Math.max(most, length), 0) + tokens;
  return Math.min(context, Math.ceil(longest / lengthStep) * lengthStep);
}

/** What calls have in common that can use the same graph. */
export function kvKey({ cache, groups }: KvCall): string {
  const parts = groups.map((group) => `${group.firstSlot}.${group.batch}.${group.tokens}.${lengthOf(group, cache.context)}`);
  return `${(cache as GgmlKv).id}: ${parts.join(" ")}`;
}

interface InputShape {
  readonly name: string;
  readonly type: "f32" | "f16" | "i64";
  readonly shape: readonly number[];
}

/** A group as graphs see it: the rows of the call that are its own, and the positions that these may look at. */
export interface GroupShape extends Pick<KvGroup, "firstSlot" | "batch" | "tokens"> {
  readonly index: number;
  /** The first of its rows. */
  readonly from: number;
  readonly length: number;
}

/** The cache as one graph sees it. */
export class KvGraph {
  readonly groups: readonly GroupShape[];
  readonly #rows: number;
  readonly #cache: GgmlKv;
  /** The inputs that the graph has, and how each is made for a call. */
  readonly #inputs = new Map<string, (call: KvCall) => NodeJS.TypedArray>();

  constructor({ cache, groups }: KvCall) {
    this.#cache = cache as GgmlKv;
    this.#rows = rowsOfGroups(groups);
    let from = 0;
    this.groups = groups.map((group, index) => {
      const { firstSlot, batch, tokens } = group;
      const shape = { index, from, firstSlot, batch, tokens, length: lengthOf(group, cache.context) };
      from += rowsOfGroup(group);
      return shape;
    });
  }

  /** Factors of the values that turn and of their swapped pairs, [2 * pairs, 1, rows]. */
  rotation(build: GraphBuilder, rope: Rope): { readonly cos: Value; readonly sin: Value } {
    const tables = this.#cache.rotation(rope);
    const factors = (half: "cos" | "sin"): Value => {
      const shape = [2 * rope.frequencies.length, 1, this.#rows];
      const make = ({ groups }: KvCall) => rotationOf(tables, placesOf(groups), half);
      return this.#input(build, { name: `${half}.${tables.name}`, type: "f32", shape }, make);
    };
    return { cos: factors("cos"), sin: factors("sin") };
  }

  store(build: GraphBuilder, layer: number, keys: Value, values: Value): void {
    const { ggml } = build.device;
    const rows = this.#input(build, { name: "cacheRows", type: "i64", shape: [this.#rows] }, ({ groups }) =>
      cacheRowsOf(placesOf(groups), this.#cache.stride),
    );
    const tensors = this.#layer(layer);
    for (const [target, source] of [
      [tensors.keys, keys],
      [tensors.values, values],
    ] as const) {
      build.effect(ggml.ggml_set_rows(build.context, target.tensor, source.tensor, rows.tensor), [source, rows]);
    }
  }

  keys(build: GraphBuilder, layer: number, group: GroupShape): Value {
    return this.#view(build, this.#layer(layer).keys, group);
  }

  values(build: GraphBuilder, layer: number, group: GroupShape): Value {
    return this.#view(build, this.#layer(layer).values, group);
  }

  mask(build: GraphBuilder, window: number, { index, batch, tokens, length }: GroupShape): Value {
    const shape = [length, tokens, 1, batch];
    return this.#input(build, { name: `mask.${index}.${window}`, type: "f16", shape }, ({ groups }) =>
      maskOf(groups[index] as KvGroup, length, window),
    );
  }

  /** An input of a call of this shape; undefined where it is not of the cache. */
  input(call: KvCall, name: string): NodeJS.TypedArray | undefined {
    const make = this.#inputs.get(name);
    return make && this.#cache.input(call, name, () => make(call));
  }

  #input(build: GraphBuilder, { name, type, shape }: InputShape, make: (call: KvCall) => NodeJS.TypedArray): Value {
    this.#inputs.set(name, make);
    return build.input(name, type, shape);
  }

  #layer(layer: number): LayerTensors {
    return this.#cache.layers[layer] as LayerTensors;
  }

  /** [dim, length, kvHeads, batch] of the slots of a group. */
  #view(build: GraphBuilder, { tensor, dim, headBytes, rowBytes }: KvTensor, { firstSlot, batch, length }: GroupShape): Value {
    const { spec, stride } = this.#cache;
    const slot = rowBytes * stride;
    const { ggml } = build.device;
    const { kvHeads } = spec;
    return build.view(
      ggml.ggml_view_4d(build.context, tensor, dim, length, kvHeads, batch, rowBytes, headBytes, slot, firstSlot * slot),
      build.constant(tensor),
    );
  }
}

/** [rows][2 * pairs]: for both values of a pair the cosine, or the sine with the sign that the other one has. */
function rotationOf({ rope, cos, sin }: RopeTables, places: readonly Place[], half: "cos" | "sin"): Float32Array {
  const pairs = rope.frequencies.length;
  const [table, sign] = half === "cos" ? [cos, 1] : [sin, -1];
  const out = new Float32Array(places.length * 2 * pairs);
  for (const [row, { position }] of places.entries()) {
    for (let i = 0; i < pairs; i++) {
      const value = table[position * pairs + i] as number;
      const first = row * 2 * pairs + (rope.interleaved ? 2 * i : i);
      out[first] = sign * value;
      out[first + (rope.interleaved ? 1 : pairs)] = value;
    }
  }
  return out;
}

/** The row of a layer's tensor that each row's key and value go to. */
const cacheRowsOf = (places: readonly Place[], stride: number): BigInt64Array =>
  BigInt64Array.from(places, ({ slot, position }) => BigInt(slot * stride + position));

/** [batch][tokens][length] in f16: 0 where a row may look, minus infinity elsewhere. A window of 0 is none. */
function maskOf(group: KvGroup, length: number, window: number): Uint16Array {
  const mask = new Uint16Array(rowsOfGroup(group) * length).fill(maskedOut);
  for (const [row, { position }] of placesOf([group]).entries()) {
    const first = window > 0 ? Math.max(0, position - window + 1) : 0;
    mask.fill(0, row * length + first, row * length + position + 1);
  }
  return mask;
}
