// The smallest correct engine: embed -> blocks -> experts -> head for one sequence, on any backend. Only for tests:
// serving is runtime/engine. Sums expert rows in gate order in f32, as the bit contract says.
import type { CodecName, KvType } from "../../../crds/names.ts";
import type { Backend, Compiled, KvCache, KvCall, LayerRange, RangeLayer } from "../../../runtime/compute/backend.ts";
import { type KvGroup, rowsOfGroups } from "../../../runtime/kernels/kv-groups.ts";
import type { ModelProgram, Segment, Tensor } from "../../../runtime/kernels/segment.ts";
import type { Weights } from "../../../runtime/kernels/weights.ts";
import { programOf } from "../../../runtime/models/index.ts";
import type { ModelStore } from "../../../runtime/weights/store.ts";

export interface ModelWeights {
  readonly program: ModelProgram;
  weights(segment: Segment): Weights | Promise<Weights>;
  expert(layer: number, expert: number, form?: CodecName): Weights | Promise<Weights>;
}

export const weightsIn = (store: ModelStore, codec: CodecName, program = programOf(store.config)): ModelWeights => ({
  program,
  weights: async ({ weights }) =>
    Object.fromEntries(await Promise.all(weights.map(async ({ name }) => [name, await store.readDense(name)] as const))),
  expert: async (layer, expert) => store.decodeUnit(await store.readUnit(layer, expert, codec), codec, layer, expert),
});

export interface LoadedModel {
  /** Logits [ids, vocab] of the tokens `ids` on top of `past` tokens of `slot`. */
  forward(ids: readonly number[], past: number, slot?: number): Promise<Float32Array>;
  /** Logits of the last of the tokens alone, by the way that is the faster for so many: what an engine does for a prompt or a token. */
  next(ids: readonly number[], past: number): Promise<Float32Array>;
  /** Logits of every row of a call, layer by layer or by the layers' range. */
  step(ids: readonly number[], groups: readonly KvGroup[], way: "layers" | "range"): Promise<Float32Array>;
  readonly range: LayerRange;
  /** What the range is made of. */
  readonly layers: readonly RangeLayer[];
  readonly kv: KvCache;
  /** Experts of every row that the last forward chose: [layer][rows * topK]. */
  readonly routes: Int32Array[];
  dispose(): Promise<void>;
}

/** The shape of this program's KV cache, but for its slots and context. */
export function kvOf({ layers, heads, kvHeads, headDim, valueDim }: ModelProgram) {
  return { layers: layers.length, heads, kvHeads, headDim, valueDim };
}

const f32 = (tensor: Tensor | undefined): Float32Array => (tensor as Tensor).data as Float32Array;

export async function loadModel(
  backend: Backend,
  model: ModelWeights,
  spec: { readonly context: number; readonly slots?: number; readonly form?: CodecName; readonly kvType?: KvType },
): Promise<LoadedModel> {
  const { program } = model;
  const compile = async (segment: Segment, layer: number): Promise<Compiled> =>
    backend.compile(segment, await model.weights(segment), layer);
  const embed = await compile(program.embed, 0);
  const head = await compile(program.head, program.layers.length - 1);
  const blocks: Compiled[] = [];
  const experts: Compiled[][] = [];
  const layers: RangeLayer[] = [];
  for (const [l, layer] of program.layers.entries()) {
    const block = await compile(layer.block, l);
    blocks.push(block);
    const row: Compiled[] = [];
    const expertSlab = layer.kind === "moe" ? backend.createExpertSlab(layer.expert, layer.experts, l) : undefined;
    const count = layer.kind === "moe" ? layer.experts : 0;
    for (let e = 0; e < count; e++) row.push((await expertSlab?.put(e, await model.expert(l, e, spec.form))) as Compiled);
    experts.push(row);
    layers.push({ layer, block, ...(expertSlab ? { expertSlab } : {}) });
  }
  const range = backend.createRange(layers, { embed, head });
  const routes: Int32Array[] = [];
  const kv = await backend.createKv({ ...kvOf(program), slots: spec.slots ?? 1, context: spec.context, type: spec.kvType ?? "f32" });

  async function layerOf(layer: number, x: Float32Array<ArrayBufferLike>, call: KvCall): Promise<Float32Array> {
    const { hidden } = program;
    const rows = rowsOfGroups(call.groups);
    const out = await blocks[layer]!.run({ x: { shape: [rows, x.length / rows], data: x } }, call);
    const shape = program.layers[layer]!;
    if (shape.kind === "dense") return f32(out.y).slice();
    const { topK } = shape;
    const [h, f, gates] = [f32(out.h).slice(), f32(out.f).slice(), f32(out.gates).slice()];
    const ids = (out.ids as Tensor).data.slice();
    routes[layer] = Int32Array.from(ids);
    const rowsOf = experts[layer]!.map((_, e) => [...ids.keys()].filter((pair) => ids[pair] === e));
    const calls = rowsOf.flatMap((pairs, e) => {
      if (pairs.length === 0) return [];
      const data = new Float32Array(pairs.length * hidden);
      for (const [i, pair] of pairs.entries()) {
        const row = Math.floor(pair / topK);
        data.set(f.subarray(row * hidden, (row + 1) * hidden), i * hidden);
      }
      return [{ pairs, program: experts[layer]![e]!, inputs: { x: { shape: [pairs.length, hidden], data } } }];
    });
    const results = await backend.runMany(calls);
    const y = new Float32Array(ids.length * hidden);
    for (const [c, { pairs }] of calls.entries()) {
      for (const [i, pair] of pairs.entries()) y.set(f32(results[c]!.y).subarray(i * hidden, (i + 1) * hidden), pair * hidden);
    }
    const stride = h.length / rows;
    for (let pair = 0; pair < ids.length; pair++) {
      const row = Math.floor(pair / topK);
      for (let d = 0; d < hidden; d++) h[row * stride + d] = h[row * stride + d]! + Math.fround(gates[pair]! * y[pair * hidden + d]!);
    }
    return h;
  }

  const layered = async (x: Float32Array, call: KvCall): Promise<Float32Array> => {
    let y = x;
    for (let layer = 0; layer < program.layers.length; layer++) y = await layerOf(layer, y, call);
    return y;
  };

  /** Logits of these rows. */
  const ranged = async (ids: readonly number[], groups: readonly KvGroup[], rows: readonly number[]): Promise<Float32Array> => {
    const head = { rows, sharpness: new Float32Array(rows.length) };
    const out = await range.run({ x: Int32Array.from(ids), kv: { cache: kv, groups }, from: 0, to: program.layers.length, head });
    for (const [layer, ids] of out.ids.entries()) if (program.layers[layer]?.kind === "moe") routes[layer] = ids;
    return f32(out.head?.outputs.logits).slice();
  };

  const states = async (ids: readonly number[], groups: readonly KvGroup[]): Promise<Float32Array> => {
    const x = f32((await embed.run({ ids: { shape: [ids.length], data: Int32Array.from(ids) } })).x).slice();
    return layered(x, { cache: kv, groups });
  };
  const logits = async (data: Float32Array): Promise<Float32Array> =>
    f32((await head.run({ x: { shape: [data.length / program.hidden, program.hidden], data } })).logits).slice();
  const groupOf = (ids: readonly number[], past: number, slot = 0): KvGroup[] => [
    { firstSlot: slot, batch: 1, tokens: ids.length, past: Int32Array.of(past) },
  ];
  const step: LoadedModel["step"] = async (ids, groups, way) =>
    way === "range" ? ranged(ids, groups, [...ids.keys()]) : logits(await states(ids, groups));

  return {
    kv,
    routes,
    range,
    layers,
    step,
    forward: (ids, past, slot) => step(ids, groupOf(ids, past, slot), "layers"),
    next: (ids, past) => ranged(ids, groupOf(ids, past), [ids.length - 1]),
    async dispose() {
      for (const program of [embed, head, ...blocks, ...experts.flat()]) await program.dispose();
      await kv.dispose();
    },
  };
}

/** The likeliest tokens that follow a prompt. */
export async function greedyTokens(backend: Backend, model: ModelWeights, prompt: readonly number[], count: number): Promise<number[]> {
  const loaded = await loadModel(backend, model, { context: prompt.length + count });
  const tokens: number[] = [];
  let ids = prompt;
  for (let past = 0; tokens.length < count; past += ids.length, ids = tokens.slice(-1)) {
    const last = (await loaded.forward(ids, past)).subarray((ids.length - 1) * model.program.vocab);
    tokens.push(last.reduce((best, value, i) => (value > last[best]! ? i : best), 0));
  }
  await loaded.dispose();
  return tokens;
}
