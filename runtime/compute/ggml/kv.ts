// The part of a graph that reads and writes the KV cache: where new rows go, what attention may see, how far heads are turned. And the
// choice of a cache for a device: by pages where the machine gives memory as it is written, else from a pool.

import type { RopeTables } from "../../kernels/rope.ts";
import type { Rope } from "../../kernels/segment.ts";
import type { KvCall, KvSpec } from "../backend.ts";
import type { GgmlDevice } from "./device.ts";
import type { GraphBuilder, Value } from "./graph.ts";
import type { GgmlKv, KvTensor, KvView, LayerTensors } from "./kv-memory.ts";
import { PagedKv } from "./kv-paged.ts";
import { PoolKv } from "./kv-pool.ts";

const maskedOut = 0xfc00; // minus infinity in f16
/** Of what is stored in a pool, at most: an infinity or NaN that a sick request writes, times zero, would be NaN in the rows of others. */
const storedMost = 65_504;

export const createGgmlKv = (device: GgmlDevice, spec: KvSpec): GgmlKv =>
  device.pageBytes === undefined ? new PoolKv(device, spec) : new PagedKv(device, spec, device.pageBytes);

/** What calls have in common that can use the same graph. */
export function kvKey(call: KvCall): string {
  const cache = call.cache as GgmlKv;
  const view = cache.viewOf(call);
  const { batch, tokens } = shapeOf(call, view);
  return `${cache.id}.${view.first}.${view.length}.${batch}.${tokens}`;
}

interface InputShape {
  readonly name: string;
  readonly type: "f32" | "f16" | "i64";
  readonly shape: readonly number[];
}

type Shape = Pick<KvCall, "batch" | "tokens">;

/** Where all rows look at the same part, they are as many tokens of one text, which masks take apart. */
const shapeOf = ({ batch, tokens }: Shape, { step }: KvView): Shape =>
  step === undefined ? { batch: 1, tokens: batch * tokens } : { batch, tokens };

/** The cache as one graph sees it. */
export class KvGraph {
  /** Rows as attention takes them. */
  readonly call: Shape;
  readonly #cache: GgmlKv;
  readonly #part: KvView;
  /** The inputs that the graph has, and how each is made for a call. */
  readonly #inputs = new Map<string, (call: KvCall) => NodeJS.TypedArray>();

  constructor(call: KvCall) {
    this.#cache = call.cache as GgmlKv;
    this.#part = this.#cache.viewOf(call);
    this.call = shapeOf(call, this.#part);
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
      const stored =
        this.#part.step === undefined
          ? build.step(ggml.ggml_clamp(build.context, source.tensor, -storedMost, storedMost), [source])
          : source;
      build.effect(ggml.ggml_set_rows(build.context, target.tensor, stored.tensor, rows.tensor), [stored, rows]);
    }
  }

  keys(build: GraphBuilder, layer: number): Value {
    return this.#view(build, this.#layer(layer).keys);
  }

  values(build: GraphBuilder, layer: number): Value {
    return this.#view(build, this.#layer(layer).values);
  }

  mask(build: GraphBuilder, window: number): Value {
    const { length } = this.#part;
    const shape = [length, this.call.tokens, 1, this.call.batch];
    return this.#input(build, { name: `mask.${window}.${length}`, type: "f16", shape }, (call) => maskOf(call, this.#part, window));
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

  /** [dim, length, kvHeads, batch] of what the call looks at. */
  #view(build: GraphBuilder, { tensor, dim, headBytes, rowBytes }: KvTensor): Value {
    const { first, length, step } = this.#part;
    const { kvHeads } = this.#cache.spec;
    const { batch } = this.call;
    const slotBytes = rowBytes * (step ?? length);
    const { ggml } = build.device;
    const view = ggml.ggml_view_4d(
      ...([build.context, tensor, dim, length, kvHeads, batch] as const),
      ...([rowBytes, headBytes, slotBytes, first * rowBytes] as const),
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
  const rows = new BigInt64Array(batch * tokens);
  for (let b = 0; b < batch; b++) {
    const from = past[b] as number;
    for (const piece of (cache as GgmlKv).piecesOf(firstSlot + b)) {
      const end = Math.min(from + tokens, piece.position + piece.count);
      for (let at = Math.max(from, piece.position); at < end; at++) rows[b * tokens + at - from] = BigInt(piece.row + at - piece.position);
    }
  }
  return rows;
}

/** [batch][tokens][length] in f16: 0 where a row may look, minus infinity elsewhere. A window of 0 is none. */
function maskOf({ past, batch, tokens, firstSlot, cache }: KvCall, { first, length, step }: KvView, window: number): Uint16Array {
  const mask = new Uint16Array(batch * tokens * length).fill(maskedOut);
  for (let b = 0; b < batch; b++) {
    const start = first + b * (step ?? 0);
    const pieces = (cache as GgmlKv).piecesOf(firstSlot + b);
    for (let token = 0; token < tokens; token++) {
      const end = (past[b] as number) + token + 1;
      const from = window > 0 ? Math.max(0, end - window) : 0;
      const at = (b * tokens + token) * length - start;
      for (const { position, row, count } of pieces) {
        const [low, high] = [Math.max(from, position), Math.min(end, position + count)];
        if (low < high) mask.fill(0, at + row + low - position, at + row + high - position);
      }
    }
  }
  return mask;
}
