// Every recipe of the registry: any number of ranks leaves the bytes of one, a run that was stopped goes on bit for bit, and does not with
// other numbers. Worlds that meet have the same in worlds/.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { chainedData, folder, modelOf, run } from "../../../test/kit/training/recipe-runs.ts";
import { balancedRun } from "../../../test/kit/training/training.ts";
import { parseRecipes, recipeTexts, usageOf } from "./index.ts";
import { type RecipeOption, recipeOptions } from "./recipe.ts";

type Texts = Partial<Record<RecipeOption, string>>;

const data = await chainedData(400, 1);
const { model: balanced } = await balancedRun(folder);
const spread = { initializer_range: 0.1 };
const dense = modelOf("llama", { ...spread, rope_parameters: { rope_type: "default", rope_theta: 1e4 } });
const experts = modelOf("mixtral", spread);

/** Recipes together, the model that suits them, and the same recipes with another number. */
const rows: readonly (readonly [asked: Texts, model: string, other: Texts])[] = [
  [{ balance: "bias:0.01,switch:0.01" }, balanced, { balance: "bias:0.02,switch:0.01" }],
  [{ balance: "device:0.05:4" }, balanced, { balance: "device:0.05:2" }],
  [{ adapters: "mixlora:4:2:2", balance: "switch:0.01" }, dense, { adapters: "mixlora:4:2:3", balance: "switch:0.01" }],
  [{ spawn: "2:0.5", gate: "dense-to-sparse:4:0.1:3" }, experts, { spawn: "2:0.4", gate: "dense-to-sparse:4:0.1:3" }],
];

const namesIn = (texts: Texts): string[] =>
  Object.entries(texts).flatMap(([option, text]) =>
    option === "spawn" ? [option] : text.split(",").map((each) => each.split(":")[0] ?? ""),
  );

test("every recipe but those of worlds that meet has a row", () => {
  const known = recipeOptions.filter((option) => option !== "local").flatMap((option) => usageOf(option).split(", "));
  const names = known.map((usage) => (usage.startsWith("STEP") ? "spawn" : (usage.split(":")[0] ?? "")));
  assert.deepEqual(new Set(rows.flatMap(([asked]) => namesIn(asked))), new Set(names));
});

for (const [asked, model, other] of rows) {
  const settings = {
    ...{ model, data, sequences: 8, sequenceLength: 16, microBatches: 4, recipes: parseRecipes(asked) },
    ...(asked.adapters !== undefined && { init: "random" as const }),
    schedule: { name: "constant", rate: 3e-3, warmup: 0, steps: 4, floor: 0 } as const,
  };
  /** The reports of a run's steps, and a digest of the folders that it leaves. */
  const left = async (ranks: number, name?: string) => {
    const { reports, out } = await run(settings, { ranks, ...(name !== undefined && { name }) });
    const hash = createHash("sha256");
    for (const file of globSync("{store,huggingface,adapters}/**/*.{json,safetensors,bin}", { cwd: out }).sort())
      hash.update(file).update(readFileSync(join(out, file)));
    return { reports, digest: hash.digest("hex") };
  };
  const title = JSON.stringify(asked);

  test(`${title}: two and four ranks leave the bytes of one, and so does a run that was stopped`, async () => {
    const one = await left(1);
    assert.equal(one.reports.length, 4);
    for (const ranks of [2, 4]) assert.deepEqual(await left(ranks), one, `${ranks} ranks`);
    const name = `stopped ${title.replace(/\W/g, "-")}`;
    const { reports } = await run(settings, { name, stopAfter: 2 });
    const changed = Object.entries(recipeTexts(parseRecipes(other))).find(
      ([option, text]) => recipeTexts(settings.recipes)[option as RecipeOption] !== text,
    );
    await assert.rejects(run({ ...settings, recipes: parseRecipes(other) }, { name }), {
      code: "BadCheckpoint",
      message: new RegExp(`was made with ${changed?.[0]} .*, this run has ${changed?.[1]}`),
    });
    const rest = await left(2, name);
    assert.deepEqual({ ...rest, reports: [...reports, ...rest.reports] }, one);
  });
}
