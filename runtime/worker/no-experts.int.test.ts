// Two workers that serve a model without experts, over real gRPC and TLS: they are described, take a plan that places nothing, become
// ready, and each gives the text of transformers.
import assert from "node:assert/strict";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { Ranks } from "../../test/kit/ranks/ranks.ts";
import { importMoe } from "../modelstore/import-moe.ts";

const root = await mkdtemp(join(tmpdir(), "enodia-no-experts-"));
after(() => rm(root, { recursive: true }));

test("a dense Llama is served by ranks that have nothing to place", async () => {
  const from = join(import.meta.dirname, "../../test/golden/families/llama");
  const dir = join(root, "llama");
  const index = await importMoe({ from, out: dir, codecs: ["f32"], overwrite: false }, () => undefined);
  const { ids, greedy } = JSON.parse(await readFile(join(from, "golden.json"), "utf8"));
  const ranks = new Ranks({ dir, index }, () => ({ backend: "reference" }));
  try {
    for (const rank of [0, 1]) await ranks.launch(rank);
    await ranks.firstPlan();
    const { layers, experts, storedBytes } = await ranks.control(0).describe({ sender: ranks.sender() });
    assert.deepEqual([layers, experts, storedBytes], [2, 0, []]);
    for (const rank of [0, 1]) assert.deepEqual(await ranks.text([rank], ids.slice(0, greedy.at), greedy.tokens.length), greedy.tokens);
  } finally {
    await ranks.close();
  }
});
