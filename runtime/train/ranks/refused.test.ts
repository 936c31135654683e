// Ranks that do not agree are told so by name and wait for nobody; ranks that have no micro-batch are refused before they begin.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { World, type WorldOptions } from "../../../test/kit/training/local-ranks.ts";
import { tinyModel } from "../../../test/kit/training/training.ts";
import { batchOf, testFssdp, testLearning } from "../../../test/kit/training/training-ranks.ts";
import { trainingPeers } from "../../../test/peers/index.ts";
import { createTraining } from "../../compute/open-training.ts";
import { gaussian, randomIds } from "../../kernels/random.ts";
import { programOf } from "../../models/index.ts";
import { Loopback } from "../../net/collectives/loopback.ts";
import { layoutOf } from "../model/layout.ts";
import { shapeOf } from "./model-shape.ts";
import { Rank } from "./rank.ts";
import type { Fssdp } from "./step-plan.ts";

const config = JSON.parse(readFileSync(join(tinyModel.dir, "config.json"), "utf8")) as Record<string, unknown>;
const [ranks, microBatches, sequenceLength] = [2, 4, 8];

const fssdp: Fssdp = { ...testFssdp, reshardSteps: 1, microBatchesAtOnce: microBatches, seconds: { row: 1, expertReplica: 0.001 } };

type Options = Omit<WorldOptions, "threads">;

function optionsOf(changed: Partial<Options> = {}): Options {
  const program = programOf(config);
  return {
    ...testLearning,
    program,
    layout: layoutOf(program, (layer, expert) => ({ w1: `${layer} ${expert}` })),
    facts: { node: [0, 1], speed: [1, 1] },
    fssdp,
    microBatches,
    sequences: microBatches,
    sequenceLength,
    ...changed,
  };
}

const batch = (vocab: number, step: number) =>
  Array.from({ length: microBatches }, (_, microBatch) => {
    const [inputs, targets] = [0, 50].map((seed) => randomIds(100 * step + seed + microBatch, sequenceLength, vocab).data as Int32Array);
    return { inputs: inputs!, targets: targets! };
  });

/** Two steps of two ranks whose options differ; nobody ends the world for those who wait, as over a wire. */
async function outcomes(one: Partial<Options>, other: Partial<Options>) {
  const hub = new Loopback(ranks, 5000);
  const backends = [await createTraining({ threads: 1 }), await createTraining({ threads: 1 })];
  try {
    const made = [];
    for (const [rank, changed] of [one, other].entries()) {
      const { facts, ...options } = optionsOf(changed);
      const opened = await Rank.open(backends[rank]!, { ...options, context: { transport: hub.transport(rank), world: 1, facts } });
      opened.state.load(gaussian(3, options.layout.floats, 0.1));
      made.push(opened);
    }
    const vocab = programOf(config).vocab;
    const found = await Promise.allSettled(
      made.map(async (rank) => {
        for (const step of [1, 2]) await rank.step(step, batchOf(batch(vocab, step)));
      }),
    );
    return found.map((each) => (each.status === "fulfilled" ? "done" : (each.reason as { code?: string }).code));
  } finally {
    for (const backend of backends) await backend.close();
  }
}

const differing: Readonly<Record<string, readonly [Partial<Options>, Partial<Options>]>> = {
  dispatch: [{}, { fssdp: { ...fssdp, dispatch: "LocalFirst" } }],
  rematerialize: [{}, { fssdp: { ...fssdp, rematerialize: "AfterForward" } }],
  speed: [{}, { facts: { node: [0, 1], speed: [1, 3] } }],
  node: [{}, { facts: { node: [0, 0], speed: [1, 1] } }],
  "slots of a late planner": [{ fssdp: { ...fssdp, planner: "late" } }, { fssdp: { ...fssdp, planner: "late", memorySlots: 0 } }],
  "planners that move primaries": [{}, { fssdp: { ...fssdp, planner: trainingPeers.smartmoe } }],
  "micro-batches at once": [{}, { fssdp: { ...fssdp, microBatchesAtOnce: 2 } }],
  "what else was agreed on": [{ agreed: "one" }, { agreed: "other" }],
  rate: [{}, { schedule: { name: "constant", rate: 1, warmup: 0, steps: 3, floor: 0 } }],
};

test("ranks that agree make their steps", async () => {
  assert.deepEqual(await outcomes({}, {}), ["done", "done"]);
});

for (const [name, [one, other]] of Object.entries(differing))
  test(`ranks that differ in ${name} both learn it in their first step`, async () => {
    assert.deepEqual(await outcomes(one, other), ["PlanMismatch", "PlanMismatch"]);
  });

test("a world of more ranks than micro-batches is refused before it begins", async () => {
  const options = { ...optionsOf({ microBatches: 1, fssdp: { ...fssdp, microBatchesAtOnce: 1 } }), threads: 1 };
  await assert.rejects(World.open(options, new Float32Array(options.layout.floats)), {
    code: "BadOption",
    message: /2 ranks have 1 micro-batches/,
  });
});

test("experts in several slices are refused by the name of their number", () => {
  const { layout } = optionsOf();
  assert.equal(shapeOf(layout, ranks).slices, 1);
  for (const slices of [0, 2, 4])
    assert.throws(() => shapeOf(layout, ranks, slices), {
      code: "BadOption",
      message: new RegExp(`^slicesPerExpert is ${slices}; it must be 1, since ranks keep, store and hand over the state of whole experts`),
    });
});
