// The memory of a rank by hand, as ranks hold it, and the refusal that names its parts.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { tinyModel } from "../../../test/kit/training/training.ts";
import { testFssdp, testLearning } from "../../../test/kit/training/training-ranks.ts";
import { programOf } from "../../models/index.ts";
import { rankBytes } from "../../placement/training/rank-bytes.ts";
import { kindsOf, layoutOf } from "../model/layout.ts";
import { optimizerSettings } from "../optimizers/index.ts";
import { borrowedFloats } from "../passes/borrowed.ts";
import { keptBudgetOf } from "./begin-world.ts";
import { checkMemory, fitsBeside, keptFloats, memoryProblem, type RankedModel, takesOver } from "./fits.ts";
import { shapeOf } from "./model-shape.ts";
import { aloneContext } from "./rank-context.ts";
import { RankStores } from "./rank-stores.ts";

const config = JSON.parse(readFileSync(join(tinyModel.dir, "config.json"), "utf8")) as Record<string, unknown>;

function modelOf(ranks: number, microBatchesAtOnce: number, tie = false): RankedModel {
  const program = programOf({ ...config, tie_word_embeddings: tie });
  const layout = layoutOf(program, (layer, expert) => ({ w1: `${layer} ${expert}` }));
  const all = Array.from({ length: ranks }, (_, rank) => rank);
  const facts = { node: all, speed: all.map(() => 1) };
  return {
    ...testLearning,
    program,
    layout,
    facts,
    fssdp: { ...testFssdp, microBatchesAtOnce },
    sequences: 16,
    sequenceLength: 32,
    microBatches: 8,
  };
}

test("a lone rank has the state of all parameters, one sum of an expert, and sums of the dense part in the tree over micro-batches", () => {
  for (const tie of [false, true]) {
    const model = modelOf(1, 1, tie);
    const { dense, experts } = kindsOf(model.layout);
    const floats = dense.reduce((sum, { from, to }) => sum + to - from, 0);
    const tied = borrowedFloats(model.program, dense);
    assert.equal(tied > 0, tie);
    const { state, sums } = rankBytes(memoryProblem({ ...model, fssdp: { ...model.fssdp, memorySlots: 0 } }, 0));
    assert.equal(state, 16 * model.layout.floats);
    // Of eight micro-batches: the one that is added to, one that is taken, and three of the tree.
    assert.equal(sums, 4 * (5 * (floats + tied) + experts[0]!.to - experts[0]!.from));
  }
});

test("optimizer state is what the optimizer keeps of each parameter, and no more than it is given", () => {
  const model = modelOf(1, 1);
  const { floats } = model.layout;
  const stateOf = (changed: Partial<RankedModel>): number => memoryProblem({ ...model, ...changed }, 0).stateBytes;
  assert.deepEqual([stateOf({}), stateOf({ optimizer: optimizerSettings("sgd", {}) })], [8 * floats, 4 * floats]);
  const held = stateOf({ optimizerMemory: { bytes: 4 * floats, folder: "" } });
  assert.ok(held <= 4 * floats && held > 4 * floats - 2 * 24_576, `${held} of ${4 * floats}`);
});

test("layers keep what the micro-batches need that are worked on at once, of each rank its own", () => {
  const { program } = modelOf(1, 1);
  const microBatch = 2 * 32 * 4 * program.layers.reduce((sum, layer) => sum + keptFloats(layer), 0);
  const kept = (ranks: number, atOnce: number): number => rankBytes(memoryProblem(modelOf(ranks, atOnce), 0)).kept;
  assert.deepEqual([kept(1, 1), kept(1, 8), kept(2, 2), kept(2, 8)], [microBatch, 8 * microBatch, microBatch, 4 * microBatch]);
});

test("ranks hold the state that the law says, and what does not fit is refused with its parts; a byte less fits", async () => {
  for (const [ranks, shadow] of [[1], [2], [3], [1, true], [3, true]] as const) {
    const model = { ...modelOf(ranks, 4), shadow };
    const shape = shapeOf(model.layout, ranks);
    const needs: number[] = [];
    for (let rank = 0; rank < ranks; rank++) {
      const problem = memoryProblem(model, rank);
      const held = 4 * (problem.dense + problem.tied) * (1 + problem.subtrees) + 4 * problem.expert;
      const { state, sums } = rankBytes({ ...problem, expertReplicas: [], partials: 1 });
      const stores = await RankStores.open(model, shape, { rank, ranks }, shadow ? model.facts.node : []);
      const bytes = stores.all.reduce((sum, { stateBytes }) => sum + stateBytes, 0);
      assert.equal(bytes + held, state + sums);
      needs.push(rankBytes(problem).all);
    }
    const all = needs.reduce((a, b) => a + b, 0);
    checkMemory(model, [...needs.keys()], all);
    const who = ranks > 1 ? `rank ${ranks - 1} of ${ranks}: ` : "";
    const message = new RegExp(
      `^${who}\\d+ parameters x 8 bytes .*, .* of adamw's state in memory, .* of copies, of sums of 8 micro-batches .* that layers keep of 4 ` +
        "micro-batches at once are .*; give more memory, or",
    );
    assert.throws(() => checkMemory(model, [...needs.keys()], all - 1), { code: "DoesNotFit", message });
  }
});

test("a world begins beside the state of the one before where both fit, and what layers keep is not there yet", () => {
  const model = { ...modelOf(3, 4), shadow: true };
  const { state, sums, kept, all } = rankBytes(memoryProblem(model, 0));
  assert.ok(fitsBeside(model, 0, kept, all));
  assert.ok(!fitsBeside(model, 0, kept + 1, all));
  assert.ok(fitsBeside(model, 0, state, 2 * state + sums));
  const most = Math.max(...[0, 1, 2].map((rank) => rankBytes(memoryProblem(model, rank)).all));
  assert.deepEqual([takesOver(model, 0, 0, most), takesOver(model, 0, 0, most - 1)], [true, false]);
  assert.ok(fitsBeside(model, 0, 0, most - 1) && !takesOver(model, 0, most, most));
});

test("shadows take what a rank shadows, and the refusal says that they can be left out", () => {
  const model = modelOf(3, 4);
  const bytes = (shadow: boolean): number => rankBytes(memoryProblem({ ...model, shadow }, 0)).all;
  const { shadowed } = memoryProblem({ ...model, shadow: true }, 0);
  assert.equal(bytes(true) - bytes(false), 16 * shadowed);
  checkMemory(model, [0], bytes(false));
  assert.throws(() => checkMemory({ ...model, shadow: true }, [0], bytes(false)), {
    code: "DoesNotFit",
    message: /, spec\.failurePolicy\.shadow false, /,
  });
});

test("forward keeps a quarter of what is left of the memory, and worlds of one machine of their part of it", (t) => {
  const { facts: _alone, ...model } = modelOf(1, 1);
  const { all } = rankBytes(memoryProblem(modelOf(1, 1), 0));
  t.mock.method(process, "constrainedMemory", () => 8 * all);
  const room = (here: number): number => {
    const context = aloneContext();
    const group = { transport: context.transport, firsts: [0], world: 0, here };
    return keptBudgetOf({ ...testLearning, ...model, context: here > 1 ? { ...context, group } : context });
  };
  assert.deepEqual([room(1), room(4), room(8)], [Math.floor((7 * all) / 16), Math.floor(all / 16), 0]);
});
