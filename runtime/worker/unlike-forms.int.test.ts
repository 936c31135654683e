// Workers with the real engine on a store whose experts differ in form within a layer and within themselves: one and three ranks give the
// same tokens, alone and side by side, while units of unlike sizes go from rank to rank.
import assert from "node:assert/strict";
import { test } from "node:test";
import { mixedBitsStore, Ranks, type tinyStore, unlikeFormsStore } from "../../test/kit/ranks/ranks.ts";
import { residentCells, storedCells } from "./expert-bytes.ts";

const long = Array.from({ length: 90 }, (_, i) => (7 * i + 3) % 320);
const prompts = [[5, 9, 17, 33], [1, 2, 3], long, [42]];
const tokens = 24;
type Store = Awaited<ReturnType<typeof tinyStore>>;

async function started(count: number, store: Store, minGatePercent: number): Promise<Ranks> {
  const ranks = new Ranks(store, () => ({ codec: "source", minGatePercent }));
  for (let rank = 0; rank < count; rank++) await ranks.launch(rank);
  await ranks.firstPlan();
  return ranks;
}
const textAt = (ranks: Ranks, rank: number, i: number) =>
  ranks.text([rank], prompts[i]!, tokens, undefined, { temperature: i % 2 === 0 ? 0 : 0.9, seed: BigInt(i + 1) });

/** The texts. */
async function moved(store: Store, minGatePercent: number): Promise<number[][]> {
  const alone = await started(1, store, minGatePercent);
  const want: number[][] = [];
  try {
    for (const i of prompts.keys()) want.push(await textAt(alone, 0, i));
    assert.deepEqual(await Promise.all(prompts.map((_, i) => textAt(alone, 0, i))), want, "batch mates change nothing");
  } finally {
    await alone.close();
  }
  const ranks = await started(3, store, minGatePercent);
  try {
    for (const shift of [0, 1, 2]) {
      if (shift > 0)
        await ranks.carryOut(ranks.nextPlan([0, 1].map((layer) => ranks.layerPlan(layer, 0, (e) => [(e + layer + shift) % 3]))));
      assert.deepEqual(await Promise.all(prompts.map((_, i) => textAt(ranks, (i + shift) % 3, i))), want);
    }
    const metrics = await ranks.byRank.get(1)!.worker.metrics.text();
    assert.match(metrics, /enodia_shard_fetches_total\{source="peer",result="ok"[^}]*\} [1-9]/);
    const info = ranks.byRank.get(0)!.worker.engine.describe();
    const [stored, resident] = [storedCells(store.index, info), residentCells(info)];
    assert.ok(new Set(stored).size > 1 && resident.every((bytes, cell) => bytes >= (stored[cell] ?? 0)), `${stored} in ${resident}`);
    const used = [...ranks.byRank.values()].reduce((sum, { worker }) => sum + worker.experts.residents.bytes, 0);
    assert.equal(
      used,
      resident.reduce((sum, bytes) => sum + bytes, 0),
      "each counts as much as its own form takes",
    );
    assert.match(info.numerics, minGatePercent > 0 ? /^exact: gates from 70%, / : /^exact: order /);
    return want;
  } finally {
    await ranks.close();
  }
}

const tested: Readonly<Record<string, readonly [made: typeof tinyStore, minGatePercents: readonly number[]]>> = {
  "experts of unlike forms, and without the weak ones,": [unlikeFormsStore, [0, 70]],
  "experts of a mean of 2.5 bits, some in the ternary code,": [mixedBitsStore, [0]],
};

for (const [what, [made, minGatePercents]] of Object.entries(tested))
  test(`three ranks give the text of one while ${what} move between them`, async () => {
    const store = await made();
    try {
      const texts: string[] = [];
      for (const percent of minGatePercents) texts.push(String(await moved(store, percent)));
      assert.equal(new Set(texts).size, texts.length, "without weak experts it is another text");
    } finally {
      store.remove();
    }
  });
