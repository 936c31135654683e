// The part of a graph that reads and writes the KV cache: rows of new positions, masks and rotations.
import { type KvGroup, type Place, placesOf, rowsOfGroup, rowsOfGroups } from "../../kernels/kv-groups.ts";
import type { RopeTables } from "../../kernels/rope.ts";
import type { Op, Rope } from "../../kernels/segment.ts";
import type { KvCall, KvSpec } from "../backend.ts";
import type { GgmlDevice } from "./device.ts";
import type { GraphBuilder, Value } from "./graph.ts";
import type { GgmlKv, GroupShape, KvRun, KvTensor, LayerTensors } from "./kv-memory.ts";
import { PagedKv } from "./kv-paged.ts";
import { PoolKv } from "./kv-pool.ts";
import { type Heads, headMasksBytesMax, partTokens, scoredTogether } from "./scores.ts";

const maskedOut = 0xfc00; // minus infinity in f16
/** Values in a shared pool are finite: an infinity or NaN of one request, times zero, would become NaN in others (../DECISIONS.md 9). */
const storedMost = { keys: 65_504, values: 65_504 };
const f32Max = (2 - 2 ** -23) * 2 ** 127;
/** Scores of up to 1,024 products with queries as large are finite, and a value times a share of zero is zero. */
const multipliedMost = { keys: 2 ** 59, values: f32Max };
/** Keys are f16, values bf16. */
const widenedMost = { keys: 65_504, values: (2 - 2 ** -7) * 2 ** 127 };
const f16Bytes = 2;

export const createGgmlKv = (device: GgmlDevice, spec: KvSpec): GgmlKv =>
  device.pageBytes === undefined ? new PoolKv(device, spec) : new PagedKv(device, spec, device.pageBytes);

/** Where all rows read the same part, they are tokens of one text, which a mask separates. */
function shapesOf(cache: GgmlKv, group: KvGroup): Omit<GroupShape, "index" | "from">[] {
  const { tokens } = group;
  return cache.runsOf(group).map((run) => {
    const { first, length, step, batch } = run;
    return step === undefined
      ? { first, length, step, run, batch: 1, tokens: batch * tokens }
      : { first, length, step, run, batch, tokens };
  });
}

/** The groups as attention reads them: by products, a prompt's tokens come in parts with a length of their own. */
function partsOf(cache: GgmlKv, groups: readonly KvGroup[]): readonly KvGroup[] {
  if (!cache.byProducts) return groups;
  return groups.flatMap((group) => {
    const { firstSlot, tokens, past } = group;
    if (tokens <= partTokens) return [group];
    return Array.from(past).flatMap((from, b) =>
      Array.from({ length: Math.ceil(tokens / partTokens) }, (_, i) => ({
        ...{ firstSlot: firstSlot + b, batch: 1, tokens: Math.min(partTokens, tokens - i * partTokens) },
        past: Int32Array.of(from + i * partTokens),
      })),
    );
  });
}

export function kvKey({ cache, groups }: KvCall): string {
  const parts = partsOf(cache as GgmlKv, groups).map((group) =>
    shapesOf(cache as GgmlKv, group)
      .map(({ first, length, step, batch, tokens }) => `${first}.${length}.${batch > 1 ? step : 0}.${batch}.${tokens}`)
      .join(","),
  );
  return `${(cache as GgmlKv).id}: ${parts.join(" ")}`;
}

type Attended = Pick<Extract<Op, { op: "attention" }>, "layer" | "kvHeads" | "among">;

interface InputShape {
  readonly name: string;
  readonly type: "f32" | "f16" | "i32" | "i64";
  readonly shape: readonly number[];
}

export class KvGraph {
  readonly groups: readonly GroupShape[];
  readonly #rows: number;
  readonly #cache: GgmlKv;
  readonly #clamps: boolean;
  readonly #inputs = new Map<string, (call: KvCall) => NodeJS.TypedArray>();
  readonly #masks = new Map<string, Value>();
  #masksBytes = 0;

  /** `clamps`: for values that may be no numbers. */
  constructor({ cache, groups }: KvCall, clamps = true) {
    this.#cache = cache as GgmlKv;
    this.#clamps = this.#cache.byProducts || (clamps && this.#cache.shared);
    this.#rows = rowsOfGroups(groups);
    let from = 0;
    this.groups = partsOf(this.#cache, groups).flatMap((group, index) =>
      shapesOf(this.#cache, group).map((shape) => {
        const own = Object.assign(shape, { index, from });
        from += rowsOfGroup(shape);
        return own;
      }),
    );
  }

  get byProducts(): boolean {
    return this.#cache.byProducts;
  }

  /** The groups in parts whose scores lie in memory together. */
  partsFor(op: Heads): readonly GroupShape[] {
    return this.byProducts ? this.groups.flatMap((group) => scoredTogether(op, group, this.#cache.spec.type)) : this.groups;
  }

  /** The factors of rotated values and of their swapped pairs, [2 * pairs, 1, rows]. */
  rotation(build: GraphBuilder, rope: Rope): { readonly cos: Value; readonly sin: Value } {
    const { name, tables } = this.#cache.rotation(rope);
    const factors = (half: "cos" | "sin"): Value => {
      const shape = [2 * rope.frequencies.length, 1, this.#rows];
      const make = ({ groups }: KvCall) => rotationOf(tables(), placesOf(groups), half);
      return this.#input(build, { name: `${half}.${name}`, type: "f32", shape }, make);
    };
    return { cos: factors("cos"), sin: factors("sin") };
  }

  /** The positions of the rows, and by what each pair's angle is divided: ggml's base is 1 here. */
  ropeInputs(build: GraphBuilder, rope: Rope): { readonly positions: Value; readonly divisors: Value } {
    const { name } = this.#cache.rotation(rope);
    const divisors = Float32Array.from(rope.frequencies, (frequency) => 1 / frequency);
    return {
      positions: this.#input(build, { name: "positions", type: "i32", shape: [this.#rows] }, ({ groups }) =>
        Int32Array.from(placesOf(groups), ({ position }) => position),
      ),
      divisors: this.#input(build, { name: `divisors.${name}`, type: "f32", shape: [divisors.length] }, () => divisors),
    };
  }

  /**
   * A key beyond f16 may be while its own row is a number, so a device's is bounded at once: before the rotation, which makes one kernel
   * with the store. A norm's weights bound its keys.
   */
  bounded(build: GraphBuilder, key: Value, { factor }: Pick<Rope, "factor">): Value {
    if (key.normed || !this.#cache.shared) return key;
    const limit = storedMost.keys / (Math.SQRT2 * Math.max(1, factor)); // a pair of values is turned into one of them
    return build.step(build.device.ggml.ggml_clamp(build.context, key.tensor, -limit, limit), [key]);
  }

  store(build: GraphBuilder, layer: number, keys: Value, values: Value): void {
    const { ggml } = build.device;
    const rows = this.#input(build, { name: "cacheRows", type: "i64", shape: [this.#rows] }, ({ groups }) =>
      cacheRowsOf(this.#cache, groups),
    );
    const tensors = this.#layer(layer);
    const most = this.byProducts ? (this.#cache.spec.type === "f16" ? widenedMost : multipliedMost) : storedMost;
    for (const [target, source, limit] of [
      [tensors.keys.rows, keys, most.keys],
      [tensors.values.rows, values, most.values],
    ] as const) {
      const stored = this.#clamps ? build.step(ggml.ggml_clamp(build.context, source.tensor, -limit, limit), [source]) : source;
      build.effect(ggml.ggml_set_rows(build.context, target, stored.tensor, rows.tensor), [stored, rows]);
    }
  }

  keys(build: GraphBuilder, op: Attended, group: GroupShape): Value {
    return this.#view(build, this.#layer(op.layer).keys, op, group);
  }

  /** Products with values read f32. */
  values(build: GraphBuilder, op: Attended, group: GroupShape): Value {
    const { type } = this.#cache.spec;
    const { kvHeads } = op;
    const view = this.#view(build, this.#layer(op.layer).values, op, group);
    if (!this.byProducts || type !== "f16") return view;
    const { length, batch } = group;
    const all = Int32Array.from({ length: length * kvHeads * batch }, (_, i) => i % length);
    const rows = this.#input(
      build,
      { name: `rows.${length}.${batch}.${kvHeads}`, type: "i32", shape: [length, kvHeads, batch] },
      () => all,
    );
    return build.step(build.device.ggml.ggml_get_rows(build.context, view.tensor, rows.tensor), [view, rows]);
  }

  /** The mask of a group or of a part of it. */
  mask(build: GraphBuilder, window: number, { index, run, batch, tokens, length, from }: GroupShape): Value {
    const group = this.groups.find((each) => each.run === run) as GroupShape;
    const shape = [length, group.tokens, 1, group.batch];
    const whole = this.#input(build, { name: `mask.${index}.${run.at}.${window}`, type: "f16", shape }, ({ groups }) =>
      maskOf(this.#cache, partsOf(this.#cache, groups)[index] as KvGroup, { run, window }),
    );
    if (batch * tokens === group.batch * group.tokens) return whole;
    const row = length * f16Bytes;
    const [text, offset] = [tokens * row, (from - group.from) * row];
    const { ggml } = build.device;
    return build.view(ggml.ggml_view_4d(build.context, whole.tensor, length, tokens, 1, batch, row, text, text, offset), whole);
  }

  /** The mask of one token for each of its heads, [length, heads * batch]: ggml divides the rows of a softmax between threads. */
  maskOfHeads(build: GraphBuilder, window: number, group: GroupShape, heads: number): Value {
    const { from, batch, length } = group;
    const key = `${from}.${window}.${heads}`;
    const known = this.#masks.get(key);
    if (known !== undefined) return known;
    const mask = this.mask(build, window, group);
    const { ggml } = build.device;
    const each = build.step(ggml.ggml_repeat_4d(build.context, mask.tensor, length, heads, 1, batch), [mask]);
    const rows = build.view(ggml.ggml_reshape_2d(build.context, each.tensor, length, heads * batch), each);
    this.#masksBytes += length * heads * batch * f16Bytes;
    if (this.#masksBytes <= headMasksBytesMax) this.#masks.set(key, rows);
    return rows;
  }

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

  /** [dim, length, kvHeads, batch] of what a group reads. */
  #view(build: GraphBuilder, { tensor, dim, headBytes, rowBytes }: KvTensor, { kvHeads, among }: Attended, group: GroupShape): Value {
    const { first, length, step, batch } = group;
    const [slot, from] = [rowBytes * (step ?? length), first * rowBytes + (among?.kvFrom ?? 0) * headBytes];
    const { ggml } = build.device;
    return build.view(
      ggml.ggml_view_4d(build.context, tensor, dim, length, kvHeads, batch, rowBytes, headBytes, slot, from),
      build.constant(tensor),
    );
  }
}

/** [rows][2 * pairs]: the cosine twice per pair, or the sine with both signs. */
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

function cacheRowsOf(cache: GgmlKv, groups: readonly KvGroup[]): BigInt64Array {
  const rows: bigint[] = [];
  for (const { firstSlot, batch, tokens, past } of groups) {
    for (let b = 0; b < batch; b++) {
      const from = past[b] as number;
      for (const { position, row, count } of cache.piecesOf(firstSlot + b)) {
        const end = Math.min(from + tokens, position + count);
        for (let at = Math.max(from, position); at < end; at++) rows.push(BigInt(row + at - position));
      }
    }
  }
  return BigInt64Array.from(rows);
}

interface Look {
  readonly run: KvRun;
  readonly window: number;
}

/** [batch][tokens][length] in f16: 0 where a row may look, minus infinity elsewhere. */
function maskOf(cache: GgmlKv, { firstSlot, tokens, past }: KvGroup, { run, window }: Look): Uint16Array {
  const { first, length, step = 0, at, batch } = run;
  const mask = new Uint16Array(batch * tokens * length).fill(maskedOut);
  for (let b = 0; b < batch; b++) {
    const pieces = cache.piecesOf(firstSlot + at + b);
    for (let token = 0; token < tokens; token++) {
      const end = (past[at + b] as number) + token + 1;
      const from = window > 0 ? Math.max(0, end - window) : 0;
      const start = (b * tokens + token) * length - first - b * step;
      for (const { position, row, count } of pieces) {
        const [low, high] = [Math.max(from, position), Math.min(end, position + count)];
        if (low < high) mask.fill(0, start + row + low - position, start + row + high - position);
      }
    }
  }
  return mask;
}
