// The KV cache of ggml: per layer one tensor of keys and one of values, a row of all heads a position, [slot][context][kvHeads * headDim].
// Keys are stored rotated. And the part of a graph that reads and writes it: where new rows go, what attention may see.

import { type RopeTables, ropeTables } from "../../kernels/rope.ts";
import type { Rope } from "../../kernels/segment.ts";
import type { KvCache, KvCall, KvSpec } from "../backend.ts";
import { checkCopy } from "../check.ts";
import type { DeviceBuffer, GgmlDevice } from "./device.ts";
import type { Pointer } from "./functions.ts";
import { buildGraph, type GraphBuilder, type Value } from "./graph.ts";
import { numberOf } from "./types.ts";

/** Attention looks at a multiple of so many positions, so that a graph lasts for as many steps; what lies beyond a row's own is masked. */
const lengthStep = 64;
const f32Bytes = 4;
const maskedOut = 0xfc00; // minus infinity in f16

interface KvTensor {
  readonly tensor: Pointer;
  /** Values of a head. */
  readonly dim: number;
}

interface LayerTensors {
  readonly keys: KvTensor;
  readonly values: KvTensor;
}

let caches = 0;

export class GgmlKv implements KvCache {
  /** Another number for each cache of a thread, since graphs are made for one. */
  readonly id = ++caches;
  readonly slots: number;
  readonly context: number;
  readonly bytes: number;
  readonly spec: KvSpec;
  readonly layers: readonly LayerTensors[];
  readonly #device: GgmlDevice;
  readonly #metadata: Pointer;
  readonly #buffer: DeviceBuffer;
  /** Tables of each rotation in use, by its numbers; few, since layers share them. */
  readonly #rotations = new Map<string, RopeTables & { readonly name: string }>();
  /** Inputs of a call, the same for all layers. */
  readonly #inputs = new WeakMap<KvCall, Map<string, NodeJS.TypedArray>>();

  constructor(device: GgmlDevice, spec: KvSpec) {
    const { ggml } = device;
    this.#device = device;
    this.spec = spec;
    this.slots = spec.slots;
    this.context = spec.context;
    const positions = spec.context * spec.slots;
    this.bytes = spec.layers * spec.kvHeads * (spec.headDim + spec.valueDim) * positions * f32Bytes;
    this.#metadata = device.metadata(2 * spec.layers);
    this.#buffer = device.allocate(this.bytes);
    ggml.ggml_backend_buffer_clear(this.#buffer.handle, 0);
    let at = this.#buffer.base;
    const place = (dim: number): KvTensor => {
      const width = spec.kvHeads * dim;
      const tensor = ggml.ggml_new_tensor_4d(this.#metadata, numberOf("f32"), width, positions, 1, 1);
      ggml.ggml_backend_tensor_alloc(this.#buffer.handle, tensor, at);
      at += BigInt(width * positions * f32Bytes);
      return { tensor, dim };
    };
    this.layers = Array.from({ length: spec.layers }, () => ({ keys: place(spec.headDim), values: place(spec.valueDim) }));
  }

  async copySlot(from: number, to: number, length: number): Promise<void> {
    checkCopy(this, from, to, length);
    if (length === 0 || from === to) return;
    const { ggml } = this.#device;
    const slot = (build: GraphBuilder, { tensor, dim }: KvTensor, index: number): Value => {
      const width = this.spec.kvHeads * dim;
      const offset = index * this.context * width * f32Bytes;
      return build.view(ggml.ggml_view_2d(build.context, tensor, width, length, width * f32Bytes, offset), build.constant(tensor));
    };
    const graph = buildGraph(this.#device, 8 * this.layers.length, (build) => {
      for (const each of this.layers.flatMap(({ keys, values }) => [keys, values])) {
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
    this.#buffer.free();
    this.#device.release(this.#metadata);
  }
}

/** Positions that a graph for this call looks at. */
function lengthOf({ past, tokens, cache }: KvCall): number {
  const longest = past.reduce((most, length) => Math.max(most, length), 0) + tokens;
  return Math.min(cache.context, Math.ceil(longest / lengthStep) * lengthStep);
}

/** What calls have in common that can use the same graph. */
export const kvKey = (call: KvCall): string =>
  `${(call.cache as GgmlKv).id}.${call.firstSlot}.${call.batch}.${call.tokens}.${lengthOf(call)}`;

interface InputShape {
  readonly name: string;
  readonly type: "f32" | "f16" | "i64";
  readonly shape: readonly number[];
}

type Shape = Pick<KvCall, "firstSlot" | "batch" | "tokens">;

/** The cache as one graph sees it. */
export class KvGraph {
  readonly call: Shape;
  readonly #cache: GgmlKv;
  readonly #length: number;
  /** The inputs that the graph has, and how each is made for a call. */
  readonly #inputs = new Map<string, (call: KvCall) => NodeJS.TypedArray>();

  constructor(call: KvCall) {
    this.call = call;
    this.#cache = call.cache as GgmlKv;
    this.#length = lengthOf(call);
  }

  /** Factors of the values that turn and of their swapped pairs, [2 * pairs, 1, rows]. */
  rotation(build: GraphBuilder, rope: Rope): { readonly cos: Value; readonly sin: Value } {
    const tables = this.#cache.rotation(rope);
    const rows = this.call.batch * this.call.tokens;
    const factors = (half: "cos" | "sin"): Value => {
      const make = (call: KvCall) => rotationOf(tables, positionsOf(call), half);
      return this.#input(build, { name: `${half}.${tables.name}`, type: "f32", shape: [2 * rope.frequencies.length, 1, rows] }, make);
    };
    return { cos: factors("cos"), sin: factors("sin") };
  }

  store(build: GraphBuilder, layer: number, keys: Value, values: Value): void {
    const { ggml } = build.device;
    const rows = this.#input(build, { name: "cacheRows", type: "i64", shape: [this.call.batch * this.call.tokens] }, cacheRowsOf);
    const tensors = this.#layer(layer);
    for (const [target, source] of [
      [tensors.keys, keys],
      [tensors.values, values],
    ] as const) {
      build.effect(ggml.ggml_set_rows(build.context, target.tensor, source.tensor, rows.tensor), [source, rows]);
    }
  }

  keys(build: GraphBuilder, layer: number): Value {
    return this.#view(build, this.#layer(layer).keys);
  }

  values(build: GraphBuilder, layer: number): Value {
    return this.#view(build, this.#layer(layer).values);
  }

  mask(build: GraphBuilder, window: number): Value {
    const shape = [this.#length, this.call.tokens, 1, this.call.batch];
    return this.#input(build, { name: `mask.${window}.${this.#length}`, type: "f16", shape }, (call) => maskOf(call, this.#length, window));
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

  /** [dim, length, kvHeads, batch] of the slots of the call. */
  #view(build: GraphBuilder, { tensor, dim }: KvTensor): Value {
    const { spec } = this.#cache;
    const row = spec.kvHeads * dim * f32Bytes;
    const slot = row * spec.context;
    const { ggml } = build.device;
    const view = ggml.ggml_view_4d(
      build.context,
      tensor,
      dim,
      this.#length,
      spec.kvHeads,
      this.call.batch,
      row,
      dim * f32Bytes,
      slot,
      this.call.firstSlot * slot,
    );
    return build.view(view, build.constant(tensor));
  }
}

/** [rows][2 * pairs]: for both values of a pair the cosine, or the sine with the sign that the other one has. */
function rotationOf({ rope, cos, sin }: RopeTables, positions: Int32Array, half: "cos" | "sin"): Float32Array {
  const pairs = rope.frequencies.length;
  const [table, sign] = half === "cos" ? [cos, 1] : [sin, -1];
  const out = new Float32Array(positions.length * 2 * pairs);
  for (const [row, position] of positions.entries()) {
    for (let i = 0; i < pairs; i++) {
      const value = table[position * pairs + i] as number;
      const first = row * 2 * pairs + (rope.interleaved ? 2 * i : i);
      out[first] = sign * value;
      out[first + (rope.interleaved ? 1 : pairs)] = value;
    }
  }
  return out;
}

/** The position of each row in its sequence. */
function positionsOf({ past, batch, tokens }: KvCall): Int32Array {
  return Int32Array.from({ length: batch * tokens }, (_, row) => (past[Math.floor(row / tokens)] as number) + (row % tokens));
}

/** The row of a layer's tensor that each row's key and value go to. */
function cacheRowsOf({ past, batch, tokens, firstSlot, cache }: KvCall): BigInt64Array {
  return BigInt64Array.from({ length: batch * tokens }, (_, row) => {
    const b = Math.floor(row / tokens);
    return BigInt((firstSlot + b) * cache.context + (past[b] as number) + (row % tokens));
  });
}

/** [batch][tokens][length] in f16: 0 where a row may look, minus infinity elsewhere. A window of 0 is none. */
function maskOf({ past, batch, tokens }: Pick<KvCall, "past" | "batch" | "tokens">, length: number, window: number): Uint16Array {
  const mask = new Uint16Array(batch * tokens * length).fill(maskedOut);
  for (let row = 0; row < batch * tokens; row++) {
    const position = (past[Math.floor(row / tokens)] as number) + (row % tokens);
    const first = window > 0 ? Math.max(0, position - window + 1) : 0;
    mask.fill(0, row * length + first, row * length + position + 1);
  }
  return mask;
}
