// The memory of a run by hand, and the refusal that names its parts.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { tinyModel } from "../../test/builders/training.ts";
import { programOf } from "../models/index.ts";
import { kindsOf, layoutOf } from "./layout.ts";
import { checkMemory, runBytes } from "./memory.ts";
import { keptFloats } from "./network.ts";
import { optimizerSettings } from "./optimizers/index.ts";
import { parseBalance } from "./recipes/index.ts";

const config = JSON.parse(readFileSync(join(tinyModel.dir, "config.json"), "utf8")) as Record<string, unknown>;
const settings = { sequences: 16, sequenceLength: 32, lanes: 8, balance: parseBalance(""), optimizer: optimizerSettings("adamw", {}) };

function runOf(tie: boolean, balance = "") {
  const program = programOf({ ...config, tie_word_embeddings: tie });
  const layout = layoutOf(program, () => ({}));
  return { program, layout, settings: { ...settings, balance: parseBalance(balance) } };
}

test("a tied head has sums of its own beside the embedding's", () => {
  const [plain, tied] = [runOf(false), runOf(true)];
  const embed = tied.layout.parts[0]!.units[0]!;
  const dense = kindsOf(tied.layout).dense.reduce((sum, { from, to }) => sum + to - from, 0);
  const expert = kindsOf(tied.layout).experts[0]!;
  // Of eight lanes: the one that is added to, one that is taken, and three of the tree.
  assert.equal(runBytes(tied).sums, 4 * (5 * (dense + embed.to - embed.from) + expert.to - expert.from));
  const head = plain.layout.parts.at(-1)!.units[0]!.parameters.find(({ name }) => name === "lm_head.weight")!;
  assert.equal(runBytes(plain).sums, runBytes(tied).sums + 4 * 5 * (head.to - head.from - (embed.to - embed.from)));
});

test("layers keep what one lane needs; a loss of balance needs all", () => {
  const { program, ...run } = runOf(false);
  const token = 4 * program.layers.reduce((sum, layer) => sum + keptFloats(layer), 0);
  assert.equal(runBytes({ program, ...run }).kept, 2 * 32 * token);
  assert.equal(runBytes(runOf(false, "switch:0.01")).kept, 8 * 2 * 32 * token);
});

test("optimizer state is what the optimizer keeps of each parameter, and no more than it is given", () => {
  const run = runOf(false);
  const stateOf = (changed: object): number => runBytes({ ...run, settings: { ...run.settings, ...changed } }).state;
  assert.deepEqual([stateOf({}), stateOf({ optimizer: optimizerSettings("sgd", {}) })], [8 * run.layout.floats, 4 * run.layout.floats]);
  const bytes = 4 * run.layout.floats;
  const held = stateOf({ optimizerMemory: { bytes, folder: "" } });
  assert.ok(held <= bytes && held > bytes - 2 * 24_576, `${held} of ${bytes}`);
});

test("what does not fit is refused with its parts, and what is a byte less fits", () => {
  const run = runOf(true, "switch:0.01");
  const { parameters, state, sums, kept } = runBytes(run);
  const bytes = parameters + state + sums + kept;
  checkMemory(run, bytes);
  assert.throws(() => checkMemory(run, bytes - 1), {
    code: "DoesNotFit",
    message: /sums of 8 lanes and .* that layers keep of 8 lanes, all 8 since --balance has a loss are .*; give more memory/,
  });
});
