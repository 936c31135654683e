// A model that runs one text, layer by layer, and tells which experts its tokens choose, and what routers of the next layers say of a
// layer's rows: as they are, and moved on by what changed since the layer before.
import type { CodecName } from "../../crds/names.ts";
import type { Backend, Compiled, KvCache, KvCall } from "../compute/backend.ts";
import { type AheadInput, layerBehind } from "../experts/prefetch/predictor.ts";
import { noExpert } from "../experts/replay/trace.ts";
import { topK } from "../kernels/route.ts";
import { routerSegment } from "../kernels/router-segment.ts";
import type { ModelProgram, MoeLayer, Segment, Tensor } from "../kernels/segment.ts";
import { programOf } from "../models/index.ts";
import { type ModelStore, storeGrid } from "../weights/store.ts";

interface Router {
  readonly input: string;
  readonly compiled: Compiled;
}

interface OpenLayer {
  readonly block: Compiled;
  /** Undefined where the router reads more than its rows. */
  readonly router: Router | undefined;
  readonly experts: readonly Compiled[];
}

/** How far ahead routers are asked: 1 = the next layer. */
const distances = [1, 2];
export const asks = (["same", "accelerated"] as const).flatMap((input: AheadInput) => distances.map((distance) => ({ input, distance })));

interface Ran {
  /** [tokens][layers][topK] */
  readonly ids: Uint16Array;
  /** [tokens][layers][width] for each of `asks`. */
  readonly asked: readonly Uint16Array[];
  /** The likeliest token behind. */
  readonly next: number;
}

const floats = (tensor: Tensor | undefined): Float32Array => (tensor as Tensor).data as Float32Array;

export class TracedModel {
  /** Milliseconds in all layers of each token that was computed alone. */
  readonly decodeMs: number[] = [];
  readonly #store: ModelStore;
  readonly #codec: CodecName;
  readonly #backend: Backend;
  readonly #program: ModelProgram;
  readonly #width: number;
  readonly #layers: OpenLayer[] = [];
  #embed!: Compiled;
  #head!: Compiled;
  #kv!: KvCache;

  private constructor(store: ModelStore, backend: Backend, { codec, width }: { readonly codec: CodecName; readonly width: number }) {
    this.#store = store;
    this.#backend = backend;
    this.#codec = codec;
    this.#width = width;
    this.#program = programOf(store.config);
  }

  /** `width`: experts of each row that routers ahead name. */
  static async open(
    store: ModelStore,
    backend: Backend,
    sizes: { readonly codec: CodecName; readonly width: number; readonly context: number },
  ): Promise<TracedModel> {
    const model = new TracedModel(store, backend, sizes);
    const { embed, head, layers, heads, kvHeads, headDim, valueDim } = model.#program;
    model.#embed = await model.#compile(embed, 0);
    model.#head = await model.#compile(head, layers.length - 1);
    for (const [at, layer] of layers.entries()) {
      const router = layer.kind === "moe" ? routerSegment(layer, sizes.width) : undefined;
      model.#layers.push({
        block: await model.#compile(layer.block, at),
        router: router && { input: router.inputs[0]?.name as string, compiled: await model.#compile(router, at) },
        experts: layer.kind === "moe" ? await model.#expertsOf(layer, at) : [],
      });
    }
    const context = sizes.context;
    model.#kv = await backend.createKv({ layers: layers.length, slots: 1, heads, kvHeads, context, headDim, valueDim });
    return model;
  }

  async #compile(segment: Segment, layer: number): Promise<Compiled> {
    const read = async ({ name }: { readonly name: string }) => [name, await this.#store.readDense(name)] as const;
    return this.#backend.compile(segment, Object.fromEntries(await Promise.all(segment.weights.map(read))), layer);
  }

  async #expertsOf({ expert, experts }: MoeLayer, layer: number): Promise<Compiled[]> {
    const slab = this.#backend.createExpertSlab(expert, experts, layer);
    const made: Compiled[] = [];
    for (let id = 0; id < experts; id++) {
      const unit = await this.#store.readUnit(layer, id, this.#codec);
      made.push(await slab.put(id, this.#store.decodeUnit(unit, this.#codec, layer, id)));
    }
    return made;
  }

  /** Computes tokens behind the `past` ones. */
  async run(tokens: readonly number[], past: number): Promise<Ran> {
    const { hidden } = this.#program;
    const n = tokens.length;
    const kv = { cache: this.#kv, groups: [{ firstSlot: 0, batch: 1, tokens: n, past: Int32Array.of(past) }] };
    const cells = (width: number) => new Uint16Array(n * this.#layers.length * width).fill(noExpert);
    const ids = cells(this.#store.index.topK);
    const asked = asks.map(() => cells(this.#width));
    let x = floats((await this.#embed.run({ ids: { shape: [n], data: Int32Array.from(tokens) } })).x).slice();
    let before: Float32Array | undefined;
    let ms = 0;
    for (const layer of this.#layers.keys()) {
      const startedAt = performance.now();
      const passed = await this.#pass(layer, x, kv);
      ms += performance.now() - startedAt;
      x = passed.y;
      if (passed.ids === undefined) continue;
      this.#place(ids, layer, { of: passed.ids, n });
      if (passed.h.length === n * hidden) await this.#ask(layer, { h: passed.h, before, n }, asked);
      before = passed.h;
    }
    if (n === 1) this.decodeMs.push(ms);
    const { logits } = await this.#head.run({ x: { shape: [1, hidden], data: x.subarray(x.length - hidden) } });
    return { ids, asked, next: topK(floats(logits), 1)[0] as number };
  }

  async #pass(layer: number, x: Float32Array, kv: KvCall) {
    const [n, { hidden }] = [kv.groups[0]?.tokens as number, this.#program];
    const { block, experts } = this.#layers[layer] as OpenLayer;
    const out = await block.run({ x: { shape: [n, x.length / n], data: x } }, kv);
    if (experts.length === 0) return { y: floats(out.y).slice(), h: x };
    const [h, f, gates] = [out.h, out.f, out.gates].map((each) => floats(each).slice()) as [Float32Array, Float32Array, Float32Array];
    const ids = (out.ids as Tensor).data.slice() as Int32Array;
    const rowOf = (pair: number) => Math.floor((pair * n) / ids.length);
    const calls = experts.flatMap((program, id) => {
      const pairs = [...ids.keys()].filter((pair) => ids[pair] === id);
      const data = new Float32Array(pairs.length * hidden);
      for (const [i, pair] of pairs.entries()) data.set(f.subarray(rowOf(pair) * hidden, (rowOf(pair) + 1) * hidden), i * hidden);
      return pairs.length === 0 ? [] : [{ pairs, program, inputs: { x: { shape: [pairs.length, hidden], data } } }];
    });
    const y = h.slice();
    for (const [at, outputs] of (await this.#backend.runMany(calls)).entries())
      for (const [i, pair] of (calls[at]?.pairs ?? []).entries())
        for (let d = 0; d < hidden; d++) {
          const to = rowOf(pair) * (h.length / n) + d;
          y[to] = (y[to] as number) + (gates[pair] as number) * (floats(outputs.y)[i * hidden + d] as number);
        }
    return { y, h, ids };
  }

  async #ask(
    layer: number,
    { h, before, n }: { readonly h: Float32Array; readonly before: Float32Array | undefined; readonly n: number },
    asked: readonly Uint16Array[],
  ): Promise<void> {
    const grid = storeGrid(this.#store.index);
    for (const [i, { input, distance }] of asks.entries()) {
      let to = layer;
      for (let step = 0; step < distance && to >= 0; step++) to = layerBehind(grid, to);
      const router = this.#layers[to]?.router;
      if (router === undefined) continue;
      const moves = input === "accelerated" && before?.length === h.length;
      const data = moves ? h.map((value, j) => value + distance * (value - (before[j] as number))) : h;
      const out = await router.compiled.run({ [router.input]: { shape: [n, h.length / n], data } });
      this.#place(asked[i] as Uint16Array, layer, { of: (out.ids as Tensor).data as Int32Array, n });
    }
  }

  /** Free experts are left out. */
  #place(out: Uint16Array, layer: number, { of, n }: { readonly of: Int32Array; readonly n: number }): void {
    const layers = this.#layers.length;
    const [width, each] = [out.length / (n * layers), of.length / n];
    for (const [i, id] of of.entries())
      if (id < this.#store.index.experts) out[(Math.floor(i / each) * layers + layer) * width + (i % each)] = id;
  }
}
