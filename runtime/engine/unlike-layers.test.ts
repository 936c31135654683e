// A model whose layers differ in number, shape, top-k and kind of experts, from its store through the engine to load, plan and back:
// nothing on the way takes all layers for alike.
import assert from "node:assert/strict";
import { rm } from "node:fs/promises";
import { dirname } from "node:path";
import { after, before, test } from "node:test";
import { MessageChannel, type MessagePort } from "node:worker_threads";
import type { CodecName } from "../../crds/names.ts";
import { decodeLayer, encodeLayer } from "../../crds/plan.ts";
import { decodeLoad, encodeLoad } from "../../crds/telemetry.ts";
import { makePlan, policies } from "../../operator/planner/index.ts";
import { planFaults } from "../../operator/planner/validate.ts";
import { greedyTokens, weightsIn } from "../../test/kit/models/small-engine.ts";
import { unlikeProgram, unlikeStore } from "../../test/kit/models/unlike-layers.ts";
import { planInput, rankSpec } from "../../test/kit/planner/plan-input.ts";
import { createReferenceBackend } from "../compute/reference.ts";
import { checkProgram, expertGrid, segmentsOf } from "../kernels/check-program.ts";
import type { ModelProgram, MoeLayer } from "../kernels/segment.ts";
import { frameFault } from "../placement/frames/frames.ts";
import { cellValues, describeGrid, expertCount, expertsIn } from "../placement/grid.ts";
import { layerShapes } from "../weights/layer-shapes.ts";
import type { ModelStore } from "../weights/store.ts";
import type { EngineInfo, LoadCounters, RemoteFrame, RoutingTables } from "./api.ts";
import { EngineLoop } from "./thread/loop.ts";
import type { Calls, FromEngine, Method, ThreadOptions } from "./thread/messages.ts";
import { openProgram } from "./thread/open.ts";

const program = unlikeProgram();
const grid = expertGrid(program);
let store: ModelStore;
const closers: (() => Promise<unknown>)[] = [];

before(async () => {
  store = await unlikeStore(program);
});
after(async () => {
  for (const close of closers) await close();
  await store.close();
  await rm(dirname(store.dir), { recursive: true });
});

/** One rank's engine loop on this thread; frames for others go to `send`. */
class Rank {
  readonly info: EngineInfo;
  readonly #port: MessagePort;
  readonly #pending = new Map<number, { resolve(value: unknown): void; reject(error: unknown): void }>();
  readonly tokens: number[] = [];
  #next = 0;
  #finished: (() => void) | undefined;

  constructor(info: EngineInfo, port: MessagePort, send: (frame: RemoteFrame) => Promise<Float32Array>) {
    this.info = info;
    this.#port = port;
    port.on("message", (message: FromEngine) => {
      if (message.type === "answer") this.#pending.get(message.id)?.resolve(message.result);
      else if (message.type === "failed") this.#pending.get(message.id)?.reject(new Error(message.error.message));
      else if (message.type === "runOnDemand")
        void send(message.frame).then((rows) => port.postMessage({ type: "ranOnDemand", id: message.id, rows }));
      else if (message.type === "events")
        for (const { event } of message.notices) {
          if (event.type === "token") this.tokens.push(event.id);
          else if (event.type === "finish") this.#finished?.();
        }
    });
  }

  static async start(codec: CodecName, send: (frame: RemoteFrame) => Promise<Float32Array>): Promise<Rank> {
    const { port1, port2 } = new MessageChannel();
    const options: ThreadOptions = { storeDir: store.dir, backend: "reference", codec, kvPoolBytes: 1 << 20, maxContext: 64, threads: 1 };
    const shared: ModelStore = { ...store, close: async () => {} };
    const model = await openProgram(shared, program, options);
    void new EngineLoop(port2, model, options).run();
    const rank = new Rank(model.info, port1, send);
    closers.push(() => rank.call("close", undefined).then(() => port1.close()));
    return rank;
  }

  call<M extends Method>(method: M, argument: Calls[M]["argument"]): Promise<Calls[M]["result"]> {
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve: resolve as (value: unknown) => void, reject });
      this.#port.postMessage({ type: "call", id, method, argument });
    });
  }

  async load(hosts: (layer: number, expert: number) => boolean): Promise<void> {
    for (let layer = 0; layer < grid.layers; layer++)
      for (let expert = 0; expert < expertsIn(grid, layer); expert++)
        if (hosts(layer, expert))
          await this.call("loadExpert", { layer, expert, unit: await store.readUnit(layer, expert, this.info.codec) });
  }

  generate(prompt: readonly number[], maxTokens: number): Promise<readonly number[]> {
    const done = new Promise<void>((resolve) => (this.#finished = resolve));
    const sampling = { temperature: 0, topP: 1, topK: 0, seed: 1n };
    this.#port.postMessage({
      type: "generate",
      id: "r",
      prompt: Uint32Array.from(prompt),
      replay: new Uint32Array(0),
      maxTokens,
      sampling,
      eos: [],
    });
    return done.then(() => this.tokens);
  }
}

const nobody = () => Promise.reject(new Error("nobody else is there"));
const prompt = [3, 50, 7, 7, 21, 40, 2];
const maxTokens = 6;

/** Greedy tokens of the smallest correct engine, which knows no ranks. */
async function expected(codec: CodecName): Promise<number[]> {
  return greedyTokens(await createReferenceBackend({ threads: 1 }), weightsIn(store, codec, program), prompt, maxTokens);
}

test("the program holds what its layers declare, and what does not is refused by name", () => {
  checkProgram(program);
  assert.deepEqual(grid, { layers: 4, experts: 6, layerExperts: [0, 4, 6, 4] });
  assert.equal(expertCount(grid), 14);
  assert.equal(describeGrid(grid), "4 layers of 0 to 6 experts");
  assert.equal(segmentsOf(program).length, 8, "layers of equal shape share their expert");
  const [dense, first, second] = program.layers as [ModelProgram["layers"][number], MoeLayer, MoeLayer];
  const wrong: Record<string, { layers: ModelProgram["layers"]; says: RegExp }> = {
    "top-k above experts": { layers: [dense, { ...first, experts: 1 }], says: /block.1: top-2 of 1 experts/ },
    "half a shared expert": { layers: [dense, { ...first, shared: 0.5 }], says: /block.1: 0.5 shared experts/ },
    "less than no shared expert": { layers: [dense, { ...first, shared: -1 }], says: /block.1: -1 shared experts/ },
    "another top-k than the block's": { layers: [dense, { ...first, topK: 1 }], says: /block.1: output ids/ },
    "a layer at another place": { layers: [dense, second], says: /block.2: uses the KV cache of layer 2/ },
    "an output that nothing writes": {
      layers: [dense, { ...first, expert: { ...first.expert, ops: first.expert.ops.slice(0, -1) } }],
      says: /expert.gated: output y/,
    },
    "expert ids that an op writes as floats": {
      layers: [
        dense,
        { ...first, block: { ...first.block, ops: [...first.block.ops, { op: "add", a: "gates", b: "gates", out: "ids" }] } },
      ],
      says: /block.1: output ids is not i32 of 2 values a row/,
    },
    "a value that nothing wrote": {
      layers: [dense, { ...first, expert: { ...first.expert, ops: first.expert.ops.slice(1) } }],
      says: /expert.gated: g is read before it is written/,
    },
    "an expert that reads the KV cache": {
      layers: [dense, { ...first, expert: { ...dense.block, name: "expert.odd" } }],
      says: /expert.odd: an expert cannot/,
    },
  };
  for (const [name, { layers, says }] of Object.entries(wrong)) {
    assert.throws(
      () => checkProgram({ ...program, layers }),
      (error: any) => error.code === "InvalidProgram" && says.test(error.message),
      name,
    );
  }
});

test("the store tells each layer's experts, and one that config.json does not describe is refused", async () => {
  assert.deepEqual(store.layerShapes, layerShapes(program));
  assert.equal(store.index.ffn, undefined);
  assert.deepEqual(
    store.index.codecs.f32?.units.map((layer) => layer.length),
    [0, 4, 6, 4],
  );
  const sizes = store.index.codecs.iq4_nl!.units.map((layer) => layer[0]?.bytes);
  assert.ok(sizes[1] === sizes[3] && sizes[1] !== sizes[2]);
  const other = { ...program, layers: program.layers.toReversed() };
  const options: ThreadOptions = {
    storeDir: store.dir,
    backend: "reference",
    codec: "f32",
    kvPoolBytes: 1 << 20,
    maxContext: 64,
    threads: 1,
  };
  await assert.rejects(openProgram(store, other, options), { code: "InvalidProgram" });
  const short = { ...program, layers: program.layers.slice(0, 3) };
  await assert.rejects(
    openProgram(store, short, options),
    (error: any) => error.code === "CorruptShard" && /layer 3: config.json says no layer/.test(error.message),
  );
});

for (const codec of ["f32", "iq4_nl"] as const) {
  test(`${codec}: one rank gives the reference's tokens, and counts rows where experts are`, async () => {
    const rank = await Rank.start(codec, nobody);
    assert.deepEqual(rank.info.layerExperts, [0, 4, 6, 4]);
    const resident = rank.info.unlikeResidentBytes!;
    assert.deepEqual(
      resident.map(({ length }) => length),
      [0, 4, 6, 4],
    );
    assert.equal(Math.max(...resident.flat()), rank.info.expertResidentBytes);
    await rank.load(() => true);
    await assert.rejects(rank.call("loadExpert", { layer: 1, expert: 4, unit: new Uint8Array(0) }), /no expert 4 in layer 1/);
    await assert.rejects(rank.call("loadExpert", { layer: 0, expert: 0, unit: new Uint8Array(0) }), /no expert 0 in layer 0/);
    assert.deepEqual(await rank.generate(prompt, maxTokens), await expected(codec));
    const { prefill, decode } = await rank.call("counters", undefined);
    for (const { counts, tokens } of [
      { counts: prefill, tokens: prompt.length },
      { counts: decode, tokens: maxTokens - 1 },
    ]) {
      assert.deepEqual(counts.routed, counts.served);
      const rows = Array.from({ length: 4 }, (_, l) => counts.routed.subarray(l * 6, (l + 1) * 6).reduce((a, b) => a + b, 0));
      assert.deepEqual(rows, [0, 2 * tokens, tokens, 2 * tokens]);
      assert.deepEqual(
        [...counts.routed].map((count, i) => (i % 6 < expertsIn(grid, Math.floor(i / 6)) ? 0 : count)),
        new Array(24).fill(0),
      );
    }
  });
}

test("two ranks give the tokens of one, each computing the experts of its own", async () => {
  const ranks: Rank[] = [];
  const send = async (frame: RemoteFrame): Promise<Float32Array> => {
    const shape = { layer: frame.layer, hidden: 32, rowBytes: frame.rows.byteLength };
    const pairs = { pairRows: [...frame.pairRows], pairExperts: [...frame.pairExperts] };
    assert.equal(frameFault({ ...shape, ...pairs }, { ...grid, hidden: 32 }), undefined);
    return ranks[frame.rank]!.call("runExperts", Object.assign(frame, { origin: "remote" as const }));
  };
  for (let rank = 0; rank < 2; rank++) ranks.push(await Rank.start("f32", send));
  const hosts = Array.from({ length: 4 }, (_, layer) =>
    Array.from({ length: expertsIn(grid, layer) }, (_, expert) => [(layer + expert) % 2]),
  );
  const layers: RoutingTables["layers"] = hosts.map((rows, layer) => ({ layer, epoch: 1, hosts: rows, weights: rows.map(() => [1000]) }));
  for (const [rank, engine] of ranks.entries()) {
    await engine.load((layer, expert) => hosts[layer]![expert]![0] === rank);
    await engine.call("setRouting", { rank, layers });
  }
  assert.deepEqual(await ranks[0]!.generate(prompt, maxTokens), await expected("f32"));
  const served = await ranks[1]!.call("counters", undefined);
  assert.ok(served.decode.served.some((rows) => rows > 0) && served.decode.routed.every((rows) => rows === 0));
});

test("a frame that names an expert which its layer does not have is refused", () => {
  const frame = (layer: number, expert: number) => ({ layer, hidden: 32, rowBytes: 128, pairRows: [0], pairExperts: [expert] });
  const model = { ...grid, hidden: 32 };
  assert.equal(frameFault(frame(2, 5), model), undefined);
  assert.match(frameFault(frame(1, 5), model) ?? "", /beyond 4/);
  assert.match(frameFault(frame(0, 0), model) ?? "", /1 pairs for 1 rows|beyond 0/);
});

test("its load travels and is planned for: every expert has a host, unlike sizes fit, and layers without experts stay empty", async () => {
  const rank = await Rank.start("f32", nobody);
  await rank.load(() => true);
  await rank.generate(prompt, maxTokens);
  const counters: LoadCounters = await rank.call("counters", undefined);
  const head = { v: 1 as const, deploymentUID: "u", rank: 0, bootId: "b", seq: 1, windowStart: 0, windowEnd: 1, phase: "prefill" as const };
  const { seconds: _, ...counts } = counters.prefill;
  const message = encodeLoad({ ...head, layers: grid.layers, experts: grid.experts, ...counts });
  const { routed } = decodeLoad(new TextEncoder().encode(message));
  assert.deepEqual(routed, counters.prefill.routed);

  const units = store.index.codecs.f32!.units;
  const storedBytes = Float64Array.from(cellValues(grid, (layer, expert) => units[layer]![expert]!.bytes));
  const shape = { ...grid, storedBytes, residentBytes: storedBytes };
  const budgetBytes = storedBytes.reduce((a, b) => a + b, 0) / 2;
  const ranks = [0, 1, 2].map((n) => rankSpec(n, { budgetBytes }));
  const load = Float64Array.from(routed);
  const input = planInput(shape, ranks, { load });
  for (const policy of Object.values(policies)) {
    const first = await makePlan(policy, input);
    assert.deepEqual(planFaults(input, first.layers), [], policy.name);
    assert.deepEqual(
      first.layers.map(({ hosts }) => hosts.length),
      [0, 4, 6, 4],
      policy.name,
    );
    const moved = { ...input, current: first.layers, load: load.toReversed(), minExpertReplicas: 2 };
    const next = await makePlan(policy, moved);
    assert.deepEqual(planFaults(moved, next.layers), [], policy.name);
    for (const layer of next.layers) {
      const { hosts, weights } = encodeLayer(layer);
      assert.deepEqual(decodeLayer(hosts, weights, "layer"), { hosts: layer.hosts, weights: layer.weights });
    }
  }
});
