// Stores that surgery made are served by workers, with the texts of the smallest engine on the same store.
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { changedCheckpoint } from "../../test/kit/models/changed-checkpoint.ts";
import { greedyTokens, weightsIn } from "../../test/kit/models/small-engine.ts";
import { Ranks } from "../../test/kit/ranks/ranks.ts";
import { createReferenceBackend } from "../compute/reference.ts";
import { importMoe } from "../modelstore/import-moe.ts";
import { average } from "../modelstore/surgery/average.ts";
import { merge } from "../modelstore/surgery/merge.ts";
import { prune } from "../modelstore/surgery/prune.ts";
import { split } from "../modelstore/surgery/split.ts";
import type { ExpertIndex } from "../weights/store.ts";
import { openStore } from "../weights/store-reader.ts";

const root = await mkdtemp(join(tmpdir(), "enodia-surgery-"));
after(() => rm(root, { recursive: true }));
const golden = join(import.meta.dirname, "../../test/golden/tiny-f32");
const [quiet, codecs] = [() => undefined, ["f32"] as const];
const at = (name: string) => ({ out: join(root, name), overwrite: false });
const [{ out: from }, { out: other }] = [at("tiny"), at("other")];
const [prompt, tokens] = [[4, 8, 15, 16, 23, 42], 24];

before(async () => {
  await importMoe({ from: golden, codecs, ...at("tiny") }, quiet);
  const grown = await changedCheckpoint(golden, root, (tensors) => {
    for (const [name, tensor] of tensors)
      if (/experts|gate/.test(name)) tensor.data = tensor.data.map((value, i) => (i % 3 === 0 ? -value : value));
  });
  await importMoe({ from: grown, codecs, ...at("other") }, quiet);
});

const stores: Readonly<Record<string, () => Promise<{ readonly out: string; readonly index: ExpertIndex }>>> = {
  "without an expert of each layer": () =>
    prune({ from, ...at("pruned"), drop: [0, 1].map((layer) => ({ layer, expert: 3 * layer })) }, quiet),
  "merged from two": () => merge({ first: from, second: other, ...at("merged"), dense: "mean" }, quiet),
  "averaged to a dense one, and split": async () => {
    const dense = await average({ from: other, ...at("dense") }, quiet);
    return split({ from: dense.out, ...at("split"), experts: 4, by: "columns", codecs, threads: 1 }, quiet);
  },
};
for (const [sentence, make] of Object.entries(stores))
  test(`a model ${sentence} is served by two ranks`, async () => {
    const { out: dir, index } = await make();
    const store = await openStore(dir);
    const want = await greedyTokens(await createReferenceBackend({ threads: 1 }), weightsIn(store, "f32"), prompt, tokens);
    await store.close();
    const ranks = new Ranks({ dir, index });
    try {
      for (const rank of [0, 1]) await ranks.launch(rank);
      await ranks.firstPlan();
      for (const texts of await Promise.all([0, 1, 0].map((rank) => ranks.text([rank], prompt, tokens)))) assert.deepEqual(texts, want);
    } finally {
      await ranks.close();
    }
  });
