// A run whose experts spawn: what they are born with, that a spawn without a mask changes nothing of what the model computes, and what is
// refused of it before the first step.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { chainedData, modelOf, run } from "../../../test/kit/training/recipe-runs.ts";
import { runSettings } from "../../../test/kit/training/training.ts";
import { gaussian } from "../../kernels/random.ts";
import type { TrainSettings } from "../loop/train-settings.ts";
import { layoutOf, movedTo } from "../model/layout.ts";
import { openSource } from "../model/model-source.ts";
import { parseRecipes } from "./index.ts";
import type { Births } from "./recipe.ts";
import { seedModel, spawned } from "./spawn.ts";

const data = await chainedData(400, 1);
const model = modelOf("mixtral", { initializer_range: 0.1 });
const source = await openSource(model);
const seed = seedModel(source, assert.fail);
const [parent, layout] = [seed, source].map(({ program, family }) => layoutOf(program, family.expertTensors)) as [
  ReturnType<typeof layoutOf>,
  ReturnType<typeof layoutOf>,
];
const stored = 3;
const partOf = (all: typeof layout, part: number, index: number) => all.parts[part]!.units[index]!;
const sizeOf = ({ from, to }: { from: number; to: number }): number => to - from;
const birthsOf = (seedBase = 0): Births => ({
  stored,
  draw: ({ size }) => new Float32Array(size).fill(7),
  seedOf: (tensor) => seedBase + Number(/\d+/.exec(tensor.replace(/.*experts/, ""))?.[0]),
});

function child(expert: number, mask: number, seedBase = 0): readonly Float32Array[] {
  const unit = partOf(parent, 1, 1);
  const values = gaussian(3, stored * sizeOf(unit)).map((value) => value || 1);
  const found = spawned({ unit, values }, partOf(layout, 1, 1 + expert), birthsOf(seedBase), { mask });
  return [0, 1, 2].map((array) => found.subarray(array * sizeOf(unit), (array + 1) * sizeOf(unit)));
}

test("an expert is born as the one before it, moments too, with the same places of all masked, others in each expert", () => {
  const whole = child(0, 0);
  assert.deepEqual(child(1, 0), whole);
  const zeros = (values: Float32Array): string => values.reduce((text, value) => text + Number(value === 0), "");
  const [p, m, v] = child(0, 0.5) as [Float32Array, Float32Array, Float32Array];
  assert.deepEqual([zeros(m), zeros(v)], [zeros(p), zeros(p)]);
  const share = [...zeros(p)].filter((is) => is === "1").length / p.length;
  assert.ok(Math.abs(share - 0.5) <= 0.05, `${share} masked`);
  for (const [i, value] of p.entries()) if (value !== 0) assert.equal(value, whole[0]![i]);
  assert.notEqual(zeros(child(1, 0.5)[0]!), zeros(p));
  assert.notEqual(zeros(child(0, 0.5, 100)[0]!), zeros(p));
  assert.deepEqual(child(0, 0.5), [p, m, v]);
});

test("all else is born as it is, and rows of a gate for experts that were not there are drawn, without moments", () => {
  const [unit, own] = [partOf(parent, 1, 0), partOf(layout, 1, 0)];
  const values = gaussian(4, stored * sizeOf(unit));
  const found = spawned({ unit, values }, own, birthsOf(), { mask: 0.5 });
  const [from, to] = [movedTo(unit, 0), movedTo(own, 0)];
  for (const { name, from: at, size } of to.parameters) {
    const old = from.parameters.find((each) => each.name === name)!;
    for (let array = 0; array < stored; array++) {
      const part = found.subarray(array * to.to + at, array * to.to + at + size);
      if (name.includes("gate")) assert.ok(part.every((value) => value === (array === 0 ? 7 : 0)));
      else assert.deepEqual(part, values.subarray(array * from.to + old.from, array * from.to + old.from + size));
    }
  }
});

const settings = {
  model,
  data,
  validation: data,
  sequences: runSettings.sequences,
  sequenceLength: runSettings.sequenceLength,
  microBatches: runSettings.microBatches,
  schedule: { ...runSettings.schedule, rate: 1e-2, steps: 5 },
  checkpoint: { everySteps: 2, keep: 9 },
};

/** Validation losses by step, as the metrics have them. */
async function validated(changed: Partial<TrainSettings>): Promise<ReadonlyMap<number, number>> {
  const { out } = await run({ ...settings, ...changed });
  const lines = readFileSync(join(out, "metrics.jsonl"), "utf8").trim().split("\n");
  const all = lines.map((line) => JSON.parse(line) as { step: number; validationLoss?: number });
  return new Map(all.flatMap(({ step, validationLoss }) => (validationLoss === undefined ? [] : [[step, validationLoss] as const])));
}

test("without a mask the model computes what it did before its experts spawned, and with one it does not", async () => {
  const single = modelOf("mixtral", { initializer_range: 0.1, num_local_experts: 1, num_experts_per_tok: 1 });
  const before = await validated({ model: single, schedule: { ...settings.schedule, steps: 4 } });
  const gate = "dense-to-sparse:4:0:5";
  for (const name of ["dense", "sparse"]) {
    const plain = await validated({ recipes: parseRecipes({ spawn: "4:0", ...(name === "dense" && { gate }) }) });
    assert.deepEqual([...plain.keys()], [2, 4, 5]);
    assert.equal(plain.get(2), before.get(2));
    assert.ok(Math.abs(plain.get(4)! - before.get(4)!) <= 1e-5, `${name}: ${plain.get(4)} after ${before.get(4)}`);
  }
  const masked = await validated({ recipes: parseRecipes({ spawn: "4:0.5" }) });
  assert.ok(Math.abs(masked.get(4)! - before.get(4)!) >= 1e-3, `${masked.get(4)} after ${before.get(4)}`);
});

const shared = modelOf("llama", {});
const refused: Record<string, { readonly asked: Parameters<typeof parseRecipes>[0]; readonly model?: string; readonly want: RegExp }> = {
  "a step that is none": { asked: { spawn: "5:0" }, want: /--spawn is "5:0"; STEP must be from 1 to below --steps \(5\)/ },
  "a spawn in a model without experts": { asked: { spawn: "2:0" }, model: shared, want: /no layer with several experts; leave it out/ },
  "a gate of a model without experts": { asked: { gate: "dense-to-sparse:4:0.1:3" }, model: shared, want: /leave it out/ },
};
for (const [what, { asked, model: other = model, want }] of Object.entries(refused))
  test(`a run with ${what} is refused with the option and the remedy`, async () => {
    const begun = run({ ...settings, model: other, recipes: parseRecipes(asked) });
    await assert.rejects(begun, { code: "BadOption", message: want });
  });
