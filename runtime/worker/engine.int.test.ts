// Workers with the real engine on a tiny Mixtral: one and three ranks, moving experts, random batch mates and a killed rank
// give the same tokens, greedy and sampled.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Ranks, tinyStore } from "../../test/kit/ranks/ranks.ts";

const prompts = [[5, 9, 17, 33], [1, 2, 3], [100, 200, 300, 4, 5, 6, 7, 8, 9], [42]];
const tokens = 50;
let store: Awaited<ReturnType<typeof tinyStore>>;
let want: number[][];

async function started(count: number): Promise<Ranks> {
  const ranks = new Ranks(store);
  for (let rank = 0; rank < count; rank++) await ranks.launch(rank);
  await ranks.firstPlan();
  return ranks;
}
const texts = (ranks: Ranks, order: (i: number) => number[], temperature: number, onToken?: (soFar: number[]) => unknown) =>
  Promise.all(prompts.map((prompt, i) => ranks.text(order(i), prompt, tokens, onToken, { temperature, seed: BigInt(i + 1) })));
const both = async (ranks: Ranks, order: (i: number) => number[]) => [
  ...(await texts(ranks, order, 0)),
  ...(await texts(ranks, order, 0.9)),
];

before(async () => {
  store = await tinyStore();
  const one = await started(1);
  try {
    want = await both(one, () => [0]);
    const alone = [];
    for (const [i, prompt] of prompts.entries())
      alone.push(await one.text([0], prompt, tokens, undefined, { temperature: 0, seed: BigInt(i + 1) }));
    assert.deepEqual(alone, want.slice(0, prompts.length), "batch mates change nothing");
  } finally {
    await one.close();
  }
});
after(() => store.remove());

test("three workers give the tokens of one, greedy and sampled, while their experts move", async () => {
  const ranks = await started(3);
  try {
    assert.deepEqual(await both(ranks, (i) => [i % 3]), want);
    let moving = true;
    const mover = (async () => {
      for (let shift = 1; moving && shift < 100; shift++) {
        await ranks.carryOut(ranks.nextPlan([0, 1].map((layer) => ranks.layerPlan(layer, 0, (e) => [(e + layer + shift) % 3]))));
      }
    })();
    for (let round = 0; round < 3; round++) assert.deepEqual(await both(ranks, (i) => [(i + round) % 3]), want);
    moving = false;
    await mover;
    assert.ok((ranks.plan?.epoch ?? 0) > 2);
  } finally {
    await ranks.close();
  }
});

test("a worker that dies in the middle of its texts costs nothing: others replay them and load its experts", async () => {
  const ranks = await started(3);
  try {
    for (const temperature of [0, 0.9]) {
      let killed: Promise<number> | undefined;
      const got = await texts(
        ranks,
        (i) => [1, [0, 2][i % 2]!, [2, 0][i % 2]!],
        temperature,
        (soFar) => {
          if (temperature === 0 && soFar.length === 4) killed ??= ranks.kill(1);
        },
      );
      assert.deepEqual(got, temperature === 0 ? want.slice(0, prompts.length) : want.slice(prompts.length));
      await killed;
    }
  } finally {
    await ranks.close();
  }
});
