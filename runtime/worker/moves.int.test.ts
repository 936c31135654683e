// Moves that meet trouble: a corrupt source, a corrupt store, full memory, a deadline, an abort. Each ends in commit or in the
// parent plan, and the text stays what it was.
import assert from "node:assert/strict";
import { cpSync, openSync, readSync, rmSync, writeSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { doubleEngine } from "../../test/kit/ranks/double-engine.ts";
import { Ranks, tinyStore } from "../../test/kit/ranks/ranks.ts";
import { toPlan } from "../net/mapping.ts";

let store: Awaited<ReturnType<typeof tinyStore>>;
let want: number[];
const prompt = [4, 8, 15];

async function started(own: (rank: number) => { modelDir?: string; expertBudgetBytes?: number } = () => ({})): Promise<Ranks> {
  const ranks = new Ranks(store, (rank) => ({ ...own(rank), overrides: { createEngine: doubleEngine(store.index) } }));
  for (const rank of [0, 1]) await ranks.launch(rank);
  await ranks.firstPlan();
  return ranks;
}

before(async () => {
  store = await tinyStore();
  const ranks = await started();
  want = await ranks.text([0], prompt, 16);
  await ranks.close();
});
after(() => store.remove());

/** A copy of the store for one rank, whose bytes can be spoilt. */
function copyOfStore(name: string): { dir: string; spoil: (layer: number, expert: number) => void } {
  const dir = `${store.dir}-${name}`;
  cpSync(store.dir, dir, { recursive: true });
  after(() => rmSync(dir, { recursive: true, force: true }));
  const { file, units } = store.index.codecs.f32!;
  const spoil = (layer: number, expert: number) => {
    const { offset } = units[layer]![expert]!;
    const handle = openSync(join(dir, file), "r+");
    const byte = Buffer.alloc(1);
    readSync(handle, byte, 0, 1, offset + 5);
    writeSync(handle, Buffer.from([byte[0]! ^ 0x10]), 0, 1, offset + 5);
  };
  return { dir, spoil };
}
const hostedAt = (ranks: Ranks, rank: number) => ranks.byRank.get(rank)!.worker.engine.hosted();
/** A plan that gives a rank all four experts of layer 0, of which rank 0 hosts 0 and 2 at first. */
const allTo = (ranks: Ranks, rank: number) => ranks.nextPlan([ranks.layerPlan(0, 0, () => [rank])]);

test("a source whose expert replica is corrupt is passed over; the bytes come from elsewhere and the plan commits", async () => {
  const bad = copyOfStore("source");
  const ranks = await started((rank) => (rank === 0 ? { modelDir: bad.dir } : {}));
  try {
    for (const expert of [0, 2]) bad.spoil(0, expert);
    await ranks.carryOut(allTo(ranks, 1));
    assert.deepEqual(hostedAt(ranks, 1)[0], [0, 1, 2, 3]);
    const metrics = await ranks.byRank.get(1)!.worker.metrics.text();
    assert.match(metrics, /enodia_shard_fetches_total\{source="peer",result="corrupt"[^}]*\} 2/);
    assert.deepEqual(await ranks.text([0], prompt, 16), want);
  } finally {
    await ranks.close();
  }
});

test("when no sound expert replica can be had, the layer fails by name and its parent goes on serving", async () => {
  const [source, target] = [copyOfStore("both-0"), copyOfStore("both-1")];
  const ranks = await started((rank) => ({ modelDir: [source, target][rank]!.dir }));
  try {
    for (const { spoil } of [source, target]) spoil(0, 0);
    const plan = allTo(ranks, 1);
    await assert.rejects(ranks.prepare(1, plan), /layer 0: CorruptShard/);
    const reply = await ranks.control(1).commit({ sender: ranks.sender(), plan: toPlan(plan) });
    assert.match(reply.refused, /not ready/);
    for (const rank of [0, 1]) await ranks.control(rank).abort({ sender: ranks.sender(), epoch: BigInt(plan.epoch), layers: [] });
    assert.deepEqual(hostedAt(ranks, 1)[0], [1, 3]);
    assert.deepEqual(await ranks.text([1], prompt, 16), want);
  } finally {
    await ranks.close();
  }
});

test("a receiver without room waits until the deadline, fails, and gives back what it had taken", async () => {
  const ranks = await started((rank) => (rank === 1 ? { expertBudgetBytes: 5_000 } : {})); // 4 hosted, one slot to spare, 2 wanted
  try {
    await assert.rejects(ranks.prepare(1, allTo(ranks, 1), 600), /layer 0: DeadlineExceeded/);
    assert.deepEqual(hostedAt(ranks, 1), [
      [1, 3],
      [0, 2],
    ]);
    assert.deepEqual(await ranks.text([1], prompt, 16), want);
    await ranks.carryOut({
      ...ranks.nextPlan([ranks.layerPlan(0, 0, (e) => (e === 0 ? [1] : [(e + 1) % 2 === 1 ? 0 : 1]))]),
      epoch: 3,
      planHash: "next",
    });
    assert.deepEqual(await ranks.text([0], prompt, 16), want);
  } finally {
    await ranks.close();
  }
});

test("an abort ends a slow transfer and brings back the parent", async () => {
  const ranks = await started();
  try {
    const plan = allTo(ranks, 1);
    const request = { sender: ranks.sender(), plan: toPlan(plan), maxBytesPerSecond: 2_000n };
    const call = ranks.control(1).prepare(request);
    const failed = new Promise<string>((resolve, reject) => {
      call.on("data", ({ event }) => {
        if (event.case === "failed") resolve(`${event.value.layer}: ${event.value.code}`);
        if (event.case === "ready") reject(new Error("ready within a transfer of a minute"));
      });
      call.on("error", reject);
    });
    await new Promise((resolve) => setTimeout(resolve, 100));
    await ranks.control(1).abort({ sender: ranks.sender(), epoch: BigInt(plan.epoch), layers: [] });
    assert.equal(await failed, "0: Aborted");
    assert.deepEqual(hostedAt(ranks, 1)[0], [1, 3]);
    assert.deepEqual(await ranks.text([1], prompt, 16), want);
  } finally {
    await ranks.close();
  }
});

test("a source that dies in the middle of a transfer is replaced by the store, and the plan commits", async () => {
  const ranks = await started();
  try {
    const plan = allTo(ranks, 1);
    const prepared = (async () => {
      const request = { sender: ranks.sender(), plan: toPlan(plan), maxBytesPerSecond: 20_000n };
      for await (const { event } of ranks.control(1).prepare(request)) if (event.case === "ready") return event.value.layer;
      return undefined;
    })();
    await new Promise((resolve) => setTimeout(resolve, 100));
    await ranks.kill(0);
    assert.equal(await prepared, 0);
    const { refused } = await ranks.control(1).commit({ sender: ranks.sender(), plan: toPlan(plan) });
    assert.equal(refused, "");
    assert.deepEqual(await ranks.text([1], prompt, 16), want);
  } finally {
    await ranks.close();
  }
});
