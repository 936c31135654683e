// Steps that pass layers at once: rows and counts are those of steps that go layer by layer, and layers are passed alone
// as soon as one of their experts is elsewhere.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { goldenStore } from "../../../test/kit/ranks/loaded-engine.ts";
import type { KvGroup } from "../../kernels/kv-groups.ts";
import { createRouter } from "../../placement/dispatch.ts";
import { RanksInStep } from "../schedule/ranks-in-step.ts";
import { type OpenModel, openModel } from "../thread/open.ts";
import { ExpertTable } from "./expert-table.ts";
import { FrameInbox } from "./frame-inbox.ts";
import { FrameScheduler } from "./frame-scheduler.ts";
import { type Ranges, rangesOf } from "./layer-ranges.ts";
import { LoadCounter } from "./load-counter.ts";
import { forward } from "./step.ts";
import { StepTimes } from "./step-times.ts";
import type { StepHead, StepTools } from "./step-tools.ts";

const { storeDir } = await goldenStore();
let model: OpenModel;
let experts: ExpertTable;
let counter: LoadCounter;
/** Layers passed at once, as [from, to]. */
let passed: [number, number][] = [];
let ranges: Ranges;

before(async () => {
  model = await openModel({ storeDir, backend: "cpu", codec: "f32", kvPoolBytes: 1 << 20, maxContext: 64, threads: 1 });
  const { backend, store, program, info } = model;
  counter = new LoadCounter(info);
  experts = new ExpertTable({ backend, store, program, codec: "f32", counter });
  for (let layer = 0; layer < info.layers; layer++) for (let expert = 0; expert < info.experts; expert++) await load(layer, expert);
  ranges = rangesOf(model, experts);
  const run = ranges.range.run.bind(ranges.range);
  ranges.range.run = (call) => {
    passed.push([call.from, call.to]);
    return run(call);
  };
});
after(() => model.close());

const load = async (layer: number, expert: number): Promise<void> =>
  experts.load(layer, expert, await model.store.readUnit(layer, expert, "f32"));

interface Passes {
  readonly ranged: boolean;
  readonly router?: ReturnType<typeof createRouter>;
  readonly layersAtOnce?: number;
}

/** A prompt, a step of three requests beside another prompt, and steps until one is passed layer by layer to measure it. */
async function stepsOf({ ranged, router = createRouter(0), layersAtOnce = 64 }: Passes) {
  passed = [];
  const { backend, program, embed, blocks, head } = model;
  const times = new StepTimes();
  const scheduler = new FrameScheduler({
    ...{
      experts,
      takeMessages: () => {},
      pendingAnswers: () => 1,
      waitMs: 20,
      now: () => performance.now(),
      yieldProcessor: () => {},
      inbox: new FrameInbox(experts, () => performance.now(), new RanksInStep([])),
    },
    poll: () => undefined,
  });
  scheduler.layersAtOnce = () => layersAtOnce;
  const tools: StepTools = {
    ...{ program, embed, blocks, experts, counter, times, scheduler, ...(ranged ? { ranges } : {}) },
    allocators: { prefill: [], decode: [] },
    router: () => ({ rank: 0, table: router }),
    dispatch: () => Promise.reject(new Error("nobody else is there")),
  };
  const { layers, kvHeads, headDim, valueDim } = program;
  const cache = await backend.createKv({ layers: layers.length, slots: 4, kvHeads, headDim, valueDim, context: 64 });
  const [rows, logits]: [number[], number[]] = [[], []];
  let taken = 0;
  const step = async (groups: readonly KvGroup[], count: number, decodes: number): Promise<void> => {
    const tokens = Int32Array.from({ length: count }, (_, i) => (i * 37 + rows.length) % 320);
    const sharpness = Float32Array.of(1);
    const take: StepHead["take"] = (out) => {
      taken += 1;
      logits.push(...(out.head?.outputs.logits?.data ?? []));
    };
    const before = taken;
    const x = await forward({ ...tools, head: { rows: [count - 1], sharpness, ms: 1e6, take } }, tokens, { cache, groups }, decodes);
    rows.push(...x);
    if (taken > before) return;
    const last = { shape: [1, program.hidden], data: x.slice(-program.hidden) };
    logits.push(...((await head.run({ x: last })).logits?.data ?? []));
  };
  try {
    const group = (firstSlot: number, tokens: number, ...past: number[]) => ({
      firstSlot,
      batch: past.length,
      tokens,
      past: Int32Array.from(past),
    });
    await step([group(0, 5, 0)], 5, 0);
    await step([group(0, 1, 5, 0, 0), group(3, 4, 0)], 7, 3);
    for (let i = 0; i < 130; i++) await step([group(0, 1, 6 + (i % 50))], 1, 1);
    return { rows, logits, taken, counts: counter.take(), seconds: times.take() };
  } finally {
    await cache.dispose();
  }
}

const countsOf = ({ counts }: Awaited<ReturnType<typeof stepsOf>>) => ({
  decode: [counts.decode.routed, counts.decode.served],
  prefill: [counts.prefill.routed, counts.prefill.served],
});

test("rows and counts are those of steps that go layer by layer", async () => {
  const layered = await stepsOf({ ranged: false });
  assert.equal(passed.length, 0);
  const ranged = await stepsOf({ ranged: true });
  const all = model.program.layers.length;
  assert.ok(passed.length >= 129 && passed.length < 132, "all but a step or two, which are measured");
  assert.ok(passed.every(([from, to]) => from === 0 && to === all));
  assert.deepEqual(ranged.rows, layered.rows);
  assert.deepEqual(ranged.logits, layered.logits);
  assert.deepEqual([ranged.taken, layered.taken], [passed.length, 0], "the head is in the graph of all layers");
  assert.deepEqual(countsOf(ranged), countsOf(layered));
  assert.ok(ranged.counts.decode.compute.runs > 0, "what experts take apart is measured");
  assert.ok(ranged.seconds.decode.experts > 0 && ranged.seconds.decode.dense > 0);
  const cut = await stepsOf({ ranged: true, layersAtOnce: 1 });
  assert.deepEqual([cut.rows, cut.logits, cut.taken], [layered.rows, layered.logits, 0]);
  assert.ok(passed.every(([from, to]) => to === from + 1));
});

test("a layer whose expert goes is passed alone, and so is one that others compute with", async () => {
  const want = (await stepsOf({ ranged: false })).rows;
  const all = model.program.layers.length;
  const { experts: count } = model.info;
  const router = createRouter(0);
  const standby = Array.from({ length: count }, () => [0, 1]);
  router.setTables([{ layer: all - 1, epoch: 1, hosts: standby, weights: standby.map(() => [1_000, 0]) }]);
  assert.deepEqual((await stepsOf({ ranged: true, router })).rows, want);
  assert.ok(passed.length > 0 && passed.every(([, to]) => to === all), "a copy that only stands by changes nothing");
  const ends = (): number[] => {
    const tools = { router: () => ({ rank: 0, table: router }), scheduler: { layersAtOnce: () => all } } as never;
    return [0, all - 1].map((from) => ranges.endOf(tools, { tokens: [] } as never, from));
  };
  assert.deepEqual(ends(), [all, all]);
  await experts.unload(all - 1, 1);
  assert.deepEqual(ends(), [all - 1, all - 1]);
  await load(all - 1, 1);
  assert.deepEqual(ends(), [all, all]);
  router.setTables([{ layer: 0, epoch: 2, hosts: standby, weights: standby.map(() => [500, 500]) }]);
  assert.deepEqual(ends(), [0, all]);
  router.setDown(new Set([1]));
  assert.deepEqual(ends(), [all, all], "the other rank is gone");
});

test("an expert that is back while somebody still computes with it takes its old place once that is free", async () => {
  const rows = new Float32Array(model.program.hidden).fill(0.5);
  const batch = { layer: 0, phase: "decode" as const, rows, pairRows: Uint32Array.of(0), pairExperts: Uint32Array.of(1) };
  const want = await experts.run(batch);
  const work = experts.prepare(batch);
  const done: string[] = [];
  const both = Promise.all([
    experts.unload(0, 1).then(() => done.push("gone")),
    load(0, 1).then(() => done.push("back")),
    load(0, 1).then(() => done.push("back")),
  ]);
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.deepEqual([done, experts.has(0, 1)], [[], false]);
  experts.release(work);
  await both;
  assert.deepEqual(done, ["gone", "back", "back"]);
  assert.ok(ranges.range.covers(0), "the layer is passed at once again");
  assert.deepEqual(await experts.run(batch), want);
});
