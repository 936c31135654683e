// Ranks that do not agree are told so by name and wait for nobody; ranks that do not fit, or have no lane, are refused before they begin.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { tinyModel } from "../../../test/builders/training.ts";
import { Loopback } from "../../comm/loopback.ts";
import { createTraining } from "../../compute/open-training.ts";
import { gaussian, randomIds } from "../../kernels/random.ts";
import { programOf } from "../../models/index.ts";
import { rankBytes } from "../../placement/training/laws.ts";
import { layoutOf } from "../layout.ts";
import { optimizerOf, optimizerSettings } from "../optimizers/index.ts";
import { OptimizerState } from "../optimizers/state.ts";
import { checkRanks, memoryProblem } from "./fits.ts";
import { RankMemory } from "./memory.ts";
import type { Fssdp } from "./plan.ts";
import { Rank, type RankOptions } from "./rank.ts";
import { ownedFloats, shapeOf } from "./shape.ts";
import { World } from "./world.ts";

const config = JSON.parse(readFileSync(join(tinyModel.dir, "config.json"), "utf8")) as Record<string, unknown>;
const [ranks, lanes, sequenceLength] = [2, 4, 8];

const fssdp: Fssdp = {
  planner: "hecate",
  dispatch: "Exact",
  rematerialize: "Never",
  spread: "chain",
  memorySlots: 2,
  overlapDegree: 3,
  window: 5,
  reshardSteps: 1,
  seconds: { row: 1, copy: 0.001 },
};

function optionsOf(changed: Partial<RankOptions> = {}): Omit<RankOptions, "transport"> {
  const program = programOf(config);
  return {
    program,
    layout: layoutOf(program, (layer, expert) => ({ w1: `${layer} ${expert}` })),
    facts: { node: [0, 1], speed: [1, 1] },
    fssdp,
    lanes,
    sequences: lanes,
    sequenceLength,
    schedule: { name: "constant", rate: 1e-2, warmup: 0, steps: 3, floor: 0 },
    optimizer: optimizerSettings("adamw", {}),
    clip: 1,
    ...changed,
  };
}

const batch = (vocab: number, step: number) =>
  Array.from({ length: lanes }, (_, lane) => {
    const [inputs, targets] = [0, 50].map((seed) => randomIds(100 * step + seed + lane, sequenceLength, vocab).data as Int32Array);
    return { inputs: inputs!, targets: targets! };
  });

/** Two steps of two ranks whose options differ; nobody ends the world for those who wait, as over a wire. */
async function outcomes(one: Partial<RankOptions>, other: Partial<RankOptions>) {
  const hub = new Loopback(ranks, 5000);
  const backends = [await createTraining({ threads: 1 }), await createTraining({ threads: 1 })];
  try {
    const made = [];
    for (const [rank, changed] of [one, other].entries()) {
      const options = { ...optionsOf(changed), transport: hub.transport(rank) };
      const opened = await Rank.open(backends[rank]!, options);
      opened.load(gaussian(3, options.layout.floats, 0.1));
      made.push(opened);
    }
    const vocab = programOf(config).vocab;
    const found = await Promise.allSettled(
      made.map(async (rank) => {
        for (const step of [1, 2]) await rank.step(step, batch(vocab, step).slice(rank.lanes.from, rank.lanes.to));
      }),
    );
    return found.map((each) => (each.status === "fulfilled" ? "done" : (each.reason as { code?: string }).code));
  } finally {
    for (const backend of backends) await backend.close();
  }
}

const differing: Readonly<Record<string, readonly [Partial<RankOptions>, Partial<RankOptions>]>> = {
  dispatch: [{}, { fssdp: { ...fssdp, dispatch: "LocalFirst" } }],
  spread: [{}, { fssdp: { ...fssdp, spread: "tree" } }],
  rematerialize: [{}, { fssdp: { ...fssdp, rematerialize: "AfterForward" } }],
  speed: [{}, { facts: { node: [0, 1], speed: [1, 3] } }],
  node: [{}, { facts: { node: [0, 0], speed: [1, 1] } }],
  "slots of a late planner": [{ fssdp: { ...fssdp, planner: "late" } }, { fssdp: { ...fssdp, planner: "late", memorySlots: 0 } }],
  "planners that move homes": [{}, { fssdp: { ...fssdp, planner: "smartmoe" } }],
  rate: [{}, { schedule: { name: "constant", rate: 1, warmup: 0, steps: 3, floor: 0 } }],
};

test("ranks that agree make their steps", async () => {
  assert.deepEqual(await outcomes({}, {}), ["done", "done"]);
});

for (const [name, [one, other]] of Object.entries(differing))
  test(`ranks that differ in ${name} both learn it in their first step`, async () => {
    assert.deepEqual(await outcomes(one, other), ["PlanMismatch", "PlanMismatch"]);
  });

test("a rank holds the state that the law of memory says, and ranks that do not fit are refused with their numbers", () => {
  const options = optionsOf();
  const shape = shapeOf(options.layout, ranks);
  const needs = Array.from({ length: ranks }, (_, rank) => {
    const problem = memoryProblem(options, rank);
    const state = OptimizerState.resident(optimizerOf(options.optimizer), ownedFloats(shape, rank, ranks));
    const sums = 4 * (problem.dense + problem.tied) * (1 + problem.subtrees);
    assert.equal(new RankMemory(shape, rank, state).stateBytes + sums, rankBytes({ ...problem, copies: [], partials: 0 }));
    return rankBytes(problem);
  });
  const all = needs[0]! + needs[1]!;
  checkRanks(options, [0, 1], all);
  const message = new RegExp(`^rank 1 with 4 experts of \\d+ parameters needs ${needs[1]} bytes .*memory here is ${all - 1} .*; give more`);
  assert.throws(() => checkRanks(options, [0, 1], all - 1), { code: "DoesNotFit", message });
});

test("a world of more ranks than lanes is refused before it begins", async () => {
  const options = { ...optionsOf({ lanes: 1 }), threads: 1 };
  await assert.rejects(World.open(options, new Float32Array(options.layout.floats)), {
    code: "BadOption",
    message: /2 ranks have 1 lanes/,
  });
});
