// A step in halves, and in pieces, gives the bits of a whole one; when it fails, nothing of it still runs. The other rank is a table of
// the experts that this one lacks, which answers after some turns of the loop.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { after, before, test } from "node:test";
import fc from "fast-check";
import type { KvGroup } from "../kernels/kv-groups.ts";
import { createRouter } from "../placement/dispatch.ts";
import { importMoe } from "../tools/import-moe.ts";
import type { RemoteFrame } from "./api.ts";
import { ExpertTable } from "./expert-table.ts";
import type { StepTools } from "./layer-pass.ts";
import { LoadCounter } from "./load-counter.ts";
import type { ThreadOptions } from "./messages.ts";
import { type OpenModel, openModel } from "./open.ts";
import { forward } from "./step.ts";
import { StepTimes } from "./step-times.ts";
import { TransitionSampler } from "./transition-sampler.ts";
import { FrameTurns } from "./turns.ts";

const root = mkdtempSync(join(tmpdir(), "enodia-step-"));
const options: ThreadOptions = {
  ...{ storeDir: join(root, "tiny"), backend: "reference", codec: "f32", kvPoolBytes: 1 << 20, maxContext: 64, threads: 1 },
};
let model: OpenModel;
let own: ExpertTable;
let others: ExpertTable;
let counter: LoadCounter;

before(async () => {
  const from = resolve(import.meta.dirname, "../../test/golden/tiny-f32");
  await importMoe({ from, out: options.storeDir, codecs: ["f32"], overwrite: true }, () => {});
  model = await openModel(options);
  counter = new LoadCounter(model.info);
  const { backend, store, program, info } = model;
  [own, others] = [0, 1].map(() => new ExpertTable({ backend, store, program, codec: "f32", counter })) as [ExpertTable, ExpertTable];
  for (let layer = 0; layer < info.layers; layer++)
    for (let expert = 0; expert < info.experts; expert++)
      await ((expert + layer) % 2 === 0 ? own : others).load(layer, expert, await store.readUnit(layer, expert, "f32"));
});
after(async () => {
  await model.close();
  rmSync(root, { recursive: true });
});

const turnsOfLoop = async (count: number): Promise<void> => {
  for (let i = 0; i < count; i++) await new Promise((done) => setImmediate(done));
};

interface Circumstances {
  readonly halved: boolean;
  readonly pieceRows: number;
  /** Turns of the loop until each answer, over and over. */
  readonly delays: readonly number[];
  readonly answer?: (frame: RemoteFrame) => Promise<Float32Array>;
}

function tools({ halved, pieceRows, delays, answer }: Circumstances): StepTools {
  const { program, embed, blocks, info } = model;
  const router = createRouter(0);
  const experts = Array.from({ length: info.experts }, (_, expert) => expert);
  router.setTables(
    program.layers.map((_, layer) => ({
      ...{ layer, epoch: 1, hosts: experts.map((expert) => [(expert + layer) % 2]), shares: experts.map(() => [1_000]) },
    })),
  );
  let frames = 0;
  const turns = new FrameTurns({
    ...{
      experts: own,
      poll: () => undefined,
      takeMessages: () => {},
      ownPhase: () => undefined,
      ownWaits: () => true,
      now: () => performance.now(),
      nap: () => {},
    },
  });
  turns.pieceRows = (phase, rows) => (phase === "decode" ? rows : Math.min(rows, pieceRows));
  return {
    ...{ program, embed, blocks, experts: own, counter, transitions: new TransitionSampler(info), times: new StepTimes() },
    ...{ turns, rooms: [], halving: { wants: () => halved, took: () => {} } },
    router: () => ({ rank: 0, table: router }),
    dispatch: async (frame) => {
      await turnsOfLoop(delays[frames++ % delays.length] ?? 0);
      return (answer ?? ((asked) => others.run(asked)))(frame);
    },
  };
}

/** Two prompts of 5 and 12 tokens, and then a token for each: the rows of all steps. */
async function rowsOf(circumstances: Circumstances): Promise<Float32Array[]> {
  const { backend, program } = model;
  const { layers, kvHeads, headDim, valueDim } = program;
  const cache = await backend.createKv({ layers: layers.length, slots: 4, kvHeads, headDim, valueDim, context: 32 });
  try {
    const all = tools(circumstances); // one for all steps: each uses the memory of the one before
    const step = async (tokens: number[], group: KvGroup) =>
      (await forward(all, Int32Array.from(tokens), { cache, groups: [group] }, group.tokens > 1 ? "prefill" : "decode")).slice();
    const prompt = (length: number) => Array.from({ length }, (_, i) => (i * 37 + length) % 320);
    const rows: Float32Array[] = [];
    for (const [slot, length] of [5, 12, 3].entries())
      rows.push(await step(prompt(length), { firstSlot: slot, batch: 1, tokens: length, past: Int32Array.of(0) }));
    rows.push(await step([1, 2, 3], { firstSlot: 0, batch: 3, tokens: 1, past: Int32Array.of(5, 12, 3) }));
    return rows;
  } finally {
    await cache.dispose();
  }
}

test("halves and pieces have the bits of whole steps, however late the others answer", async () => {
  const want = await rowsOf({ halved: false, pieceRows: 64, delays: [0] });
  const circumstances = fc.record({
    halved: fc.boolean(),
    pieceRows: fc.integer({ min: 1, max: 12 }),
    delays: fc.array(fc.nat({ max: 5 }), { minLength: 1, maxLength: 7 }),
  });
  await fc.assert(
    fc.asyncProperty(circumstances, async (circumstance) => assert.deepEqual(await rowsOf(circumstance), want)),
    { numRuns: 12 },
  );
});

test("while one half's rows are away the other is computed, and its rows leave before the first are back", async () => {
  const layers: number[] = [];
  let away = 0;
  let most = 0;
  const answer = async (frame: RemoteFrame): Promise<Float32Array> => {
    layers.push(frame.layer);
    most = Math.max(most, ++away);
    await turnsOfLoop(3);
    away -= 1;
    return others.run(frame);
  };
  await rowsOf({ halved: false, pieceRows: 64, delays: [0], answer });
  assert.equal(most, 1);
  await rowsOf({ halved: true, pieceRows: 64, delays: [0], answer });
  assert.equal(most, 2);
});

test("a step that fails has ended: neither half computes afterwards", async () => {
  let asked = 0;
  const answer = async (frame: RemoteFrame): Promise<Float32Array> => {
    if (asked++ === 1) throw new Error("no host");
    await turnsOfLoop(4);
    return others.run(frame);
  };
  await assert.rejects(rowsOf({ halved: true, pieceRows: 64, delays: [0], answer }), /no host/);
  const before = asked;
  await turnsOfLoop(20);
  assert.equal(asked, before);
});
