// A step in halves, and in pieces, gives the bits of a whole one; when it fails, nothing of it still runs. The other rank is a table of
// the experts that this one lacks, which answers after some turns of the loop.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import fc from "fast-check";
import { goldenStore } from "../../../test/kit/ranks/loaded-engine.ts";
import { type KvGroup, type Place, placesOf } from "../../kernels/kv-groups.ts";
import { createRouter } from "../../placement/dispatch.ts";
import type { RemoteFrame } from "../api.ts";
import { RanksInStep } from "../schedule/ranks-in-step.ts";
import type { ThreadOptions } from "../thread/messages.ts";
import { type OpenModel, openModel } from "../thread/open.ts";
import { ExpertTable } from "./expert-table.ts";
import { FrameInbox } from "./frame-inbox.ts";
import { FrameScheduler } from "./frame-scheduler.ts";
import { LoadCounter } from "./load-counter.ts";
import { forward } from "./step.ts";
import { StepTimes } from "./step-times.ts";
import type { StepTools } from "./step-tools.ts";

const { storeDir } = await goldenStore();
const options: ThreadOptions = {
  ...{ storeDir, backend: "reference", codec: "f32", kvPoolBytes: 1 << 20, maxContext: 64, threads: 1 },
};
let model: OpenModel;
let own: ExpertTable;
let others: ExpertTable;
let counter: LoadCounter;

before(async () => {
  model = await openModel(options);
  counter = new LoadCounter(model.info);
  const { backend, store, program, info } = model;
  [own, others] = [0, 1].map(() => new ExpertTable({ backend, store, program, codec: "f32", counter })) as [ExpertTable, ExpertTable];
  for (let layer = 0; layer < info.layers; layer++)
    for (let expert = 0; expert < info.experts; expert++)
      await ((expert + layer) % 2 === 0 ? own : others).load(layer, expert, await store.readUnit(layer, expert, "f32"));
});
after(() => model.close());

const iterations = async (count: number): Promise<void> => {
  for (let i = 0; i < count; i++) await new Promise((done) => setImmediate(done));
};

interface Circumstances {
  readonly overlapped: boolean;
  readonly pieceRows: number;
  /** Turns of the loop until each answer, over and over. */
  readonly delays: readonly number[];
  readonly answer?: (frame: RemoteFrame) => Promise<Float32Array>;
}

function tools({ overlapped, pieceRows, delays, answer }: Circumstances): StepTools {
  const { program, embed, blocks, info } = model;
  const router = createRouter(0);
  const experts = Array.from({ length: info.experts }, (_, expert) => expert);
  router.setTables(
    program.layers.map((_, layer) => ({
      ...{ layer, epoch: 1, hosts: experts.map((expert) => [(expert + layer) % 2]), weights: experts.map(() => [1_000]) },
    })),
  );
  let frames = 0;
  const scheduler = new FrameScheduler({
    ...{
      experts: own,
      poll: () => undefined,
      takeMessages: () => {},
      pendingAnswers: () => 1,
      waitMs: 20,
      now: () => performance.now(),
      yieldProcessor: () => {},
      inbox: new FrameInbox(own, () => performance.now(), new RanksInStep([])),
    },
  });
  scheduler.pieceRows = (kind, rows) => (kind === "decode" ? rows : Math.min(rows, pieceRows));
  return {
    ...{ program, embed, blocks, experts: own, counter, times: new StepTimes() },
    ...{ scheduler, allocators: { prefill: [], decode: [] }, overlap: { wants: () => overlapped, took: () => {} } },
    router: () => ({ rank: 0, table: router }),
    dispatch: async (frame) => {
      await iterations(delays[frames++ % delays.length] ?? 0);
      return (answer ?? ((asked) => others.run(asked)))(frame);
    },
  };
}

interface StepRows {
  readonly groups: readonly KvGroup[];
  readonly decodes: number;
}

const chunk = (firstSlot: number, past: number, tokens: number): KvGroup => ({ firstSlot, batch: 1, tokens, past: Int32Array.of(past) });
const tokenAt = ({ slot, position }: Place): number => ((slot * 3 + position) * 37) % 320;

/** Prompts of 5, 12 and 3 tokens, a token for each, and one more for each beside the prompts of two others. */
const apart: readonly StepRows[] = [
  ...[chunk(0, 0, 5), chunk(1, 0, 12), chunk(2, 0, 3)].map((group) => ({ groups: [group], decodes: 0 })),
  { groups: [{ firstSlot: 0, batch: 3, tokens: 1, past: Int32Array.of(5, 12, 3) }], decodes: 3 },
  {
    groups: [{ firstSlot: 0, batch: 3, tokens: 1, past: Int32Array.of(6, 13, 4) }, chunk(3, 0, 6), chunk(4, 0, 8)],
    decodes: 3,
  },
];
/** The same rows in other steps. */
const regrouped: readonly StepRows[] = [
  { groups: [chunk(0, 0, 5), chunk(1, 0, 12), chunk(2, 0, 3)], decodes: 0 },
  { groups: [{ firstSlot: 0, batch: 3, tokens: 1, past: Int32Array.of(5, 12, 3) }, chunk(3, 0, 2)], decodes: 3 },
  { groups: [{ firstSlot: 0, batch: 3, tokens: 1, past: Int32Array.of(6, 13, 4) }, chunk(3, 2, 4)], decodes: 3 },
  { groups: [chunk(4, 0, 8)], decodes: 0 },
];

/** The rows of all steps, by where they stand: "slot: position". */
async function rowsOf(circumstances: Circumstances, steps: readonly StepRows[] = apart): Promise<Map<string, Float32Array>> {
  const { backend, program } = model;
  const { layers, kvHeads, headDim, valueDim, hidden } = program;
  const cache = await backend.createKv({ layers: layers.length, slots: 5, kvHeads, headDim, valueDim, context: 32 });
  try {
    const all = tools(circumstances); // one for all steps: each uses the memory of the one before
    const found = new Map<string, Float32Array>();
    for (const { groups, decodes } of steps) {
      const places = placesOf(groups);
      const tokens = Int32Array.from(places, tokenAt);
      const rows = await forward(all, tokens, { cache, groups }, decodes);
      for (const [i, { slot, position }] of places.entries()) found.set(`${slot}: ${position}`, rows.slice(i * hidden, (i + 1) * hidden));
    }
    return found;
  } finally {
    await cache.dispose();
  }
}

test("halves, pieces and other steps have the bits of whole steps, however late the others answer", async () => {
  const want = await rowsOf({ overlapped: false, pieceRows: 64, delays: [0] });
  const circumstances = fc.record({
    overlapped: fc.boolean(),
    pieceRows: fc.integer({ min: 1, max: 12 }),
    delays: fc.array(fc.nat({ max: 5 }), { minLength: 1, maxLength: 7 }),
  });
  await fc.assert(
    fc.asyncProperty(circumstances, fc.constantFrom(apart, regrouped), async (circumstance, steps) => {
      const got = await rowsOf(circumstance, steps);
      assert.equal(got.size, want.size);
      for (const [place, row] of want) assert.deepEqual(got.get(place), row, place);
    }),
    { numRuns: 14 },
  );
});

/** A prompt's step of two requests; `decodes`: while its second half runs, as often as it may, one token of a third request. */
async function promptRows(decodes: boolean): Promise<Float32Array> {
  const { layers, kvHeads, headDim, valueDim } = model.program;
  const cache = await model.backend.createKv({ layers: layers.length, slots: 5, kvHeads, headDim, valueDim, context: 32 });
  const all = tools({ overlapped: decodes, pieceRows: 64, delays: [0, 0, 0, 6] });
  const scheduler = all.scheduler as FrameScheduler;
  const run = (overlap: boolean, groups: readonly KvGroup[], count: number): Promise<Float32Array> =>
    forward(
      overlap ? all : { ...all, overlap: { wants: () => false, took: () => {} } },
      Int32Array.from(placesOf(groups), tokenAt),
      { cache, groups },
      count,
    );
  try {
    await run(false, [chunk(0, 0, 5)], 0);
    let busy = false;
    scheduler.between = () => {
      if (busy || !decodes || all.allocators.prefill.length === 0) return undefined;
      busy = true;
      return run(false, [{ firstSlot: 0, batch: 1, tokens: 1, past: Int32Array.of(5) }], 1).then(() => {
        busy = false;
      });
    };
    scheduler.running = "prefill";
    return (await run(true, [chunk(1, 0, 4), chunk(2, 0, 4)], 0)).slice();
  } finally {
    await cache.dispose();
  }
}

test("a step that decodes between the graphs of a prompt's step leaves the rows of its finished half alone", async () => {
  assert.deepEqual(await promptRows(true), await promptRows(false));
});

test("rows of a mixed step count by their phase, and those that decode leave in frames of their own before others", async () => {
  counter.take();
  const frames: RemoteFrame[] = [];
  const answer = (frame: RemoteFrame): Promise<Float32Array> => {
    frames.push(frame);
    return others.run(frame);
  };
  await rowsOf({ overlapped: false, pieceRows: 64, delays: [0], answer });
  const { layers, info } = { layers: model.program.layers.length, info: model.info };
  const counts = counter.take();
  const sum = (values: Uint32Array): number => values.reduce((a, b) => a + b, 0);
  for (const [phase, rows] of [
    ["decode", 6],
    ["prefill", 34],
  ] as const) {
    assert.equal(sum(counts[phase].routed), rows * layers * info.topK, phase);
    assert.equal(sum(counts[phase].served), rows * layers * info.topK, phase);
  }
  const last = frames.slice(-2).map(({ layer, phase, pairRows }) => [layer, phase, pairRows.length > 0]);
  assert.deepEqual(last, [
    [layers - 1, "decode", true],
    [layers - 1, "prefill", true],
  ]);
});

test("while one half's rows are away the other is computed, and its rows leave before the first are back", async () => {
  const layers: number[] = [];
  let away = 0;
  let most = 0;
  const answer = async (frame: RemoteFrame): Promise<Float32Array> => {
    layers.push(frame.layer);
    most = Math.max(most, ++away);
    await iterations(3);
    away -= 1;
    return others.run(frame);
  };
  const unmixed = apart.slice(0, 4);
  await rowsOf({ overlapped: false, pieceRows: 64, delays: [0], answer }, unmixed);
  assert.equal(most, 1);
  await rowsOf({ overlapped: true, pieceRows: 64, delays: [0], answer }, unmixed);
  assert.equal(most, 2);
});

test("a step that fails has ended: neither half computes afterwards", async () => {
  let asked = 0;
  const answer = async (frame: RemoteFrame): Promise<Float32Array> => {
    if (asked++ === 1) throw new Error("no host");
    await iterations(4);
    return others.run(frame);
  };
  await assert.rejects(rowsOf({ overlapped: true, pieceRows: 64, delays: [0], answer }), /no host/);
  const before = asked;
  await iterations(20);
  assert.equal(asked, before);
});
