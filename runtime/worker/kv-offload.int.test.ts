// Keys and values that leave the KV pool come back from host memory, and after a restart from the disk: over real gRPC and with the real
// engine, the same texts, and fewer tokens are computed.
import assert from "node:assert/strict";
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { Ranks, tinyStore } from "../../test/kit/ranks/ranks.ts";
import { until } from "../../test/kit/wait.ts";
import type { EngineStats } from "../engine/engine.ts";
import type { WorkerOptions } from "./worker.ts";

const promptOf = (factor: number, length = 400) => Array.from({ length }, (_, i) => 3 + ((i * factor) % 300));
const [first, second] = [promptOf(37), promptOf(41)];
const streams = [promptOf(43, 200), promptOf(47, 200)];
const [few, many, blockTokens] = [8, 250, 64];
const root = mkdtempSync(join(tmpdir(), "enodia-offload-"));
let store: Awaited<ReturnType<typeof tinyStore>>;
let want: Readonly<Record<"first" | "second", number[]>>;
let wantStreams: number[][];
/** Bytes of KV memory for 64 positions. */
let block = 0;

async function started(options: Partial<WorkerOptions>): Promise<Ranks> {
  const ranks = new Ranks(store, () => ({ maxContext: 512, ...options }));
  await ranks.launch(0);
  await ranks.firstPlan();
  return ranks;
}
const statsOf = (ranks: Ranks): Promise<EngineStats> => ranks.byRank.get(0)!.worker.engine.stats();
const stored = (ranks: Ranks, blocks: number) =>
  until("blocks are in memory", async () => ((await statsOf(ranks)).kvHost?.stored ?? 0) >= blocks);
/** The tokens that the work computes as prompts. */
async function computed(ranks: Ranks, work: () => Promise<void>): Promise<number> {
  const before = (await statsOf(ranks)).prefillTokens;
  await work();
  return (await statsOf(ranks)).prefillTokens - before;
}

before(async () => {
  store = await tinyStore();
  const alone = await started({});
  want = { first: await alone.text([0], first, few), second: await alone.text([0], second, few) };
  wantStreams = [];
  for (const prompt of streams) wantStreams.push(await alone.text([0], prompt, many));
  const { kvBytes, kvBlocks } = alone.byRank.get(0)!.worker.engine.describe();
  block = kvBytes / kvBlocks;
  await alone.close();
});
after(() => {
  store.remove();
  rmSync(root, { recursive: true, force: true });
});

test("a prefix that another text evicted comes from memory", async () => {
  const ranks = await started({ kvPoolBytes: 8 * block, kvOffloadBytes: 64 * block });
  try {
    assert.deepEqual(await ranks.text([0], first, few), want.first);
    await stored(ranks, 7);
    assert.deepEqual(await ranks.text([0], second, few), want.second);
    const again = await computed(ranks, async () => assert.deepEqual(await ranks.text([0], first, few), want.first));
    assert.ok(again <= blockTokens, `${again} tokens were computed again`);
    const { kvHost } = await statsOf(ranks);
    assert.ok(kvHost && kvHost.found > 0 && kvHost.back.bytes > 0 && kvHost.heldBytes <= 64 * block, JSON.stringify(kvHost));
  } finally {
    await ranks.close();
  }
});

test("a stream that was preempted comes back from memory instead of being computed again", async () => {
  const run = async (kvOffloadBytes: number) => {
    const ranks = await started({ kvPoolBytes: 12 * block, kvOffloadBytes });
    try {
      let texts: number[][] = [];
      const tokens = await computed(ranks, async () => {
        texts = await Promise.all(streams.map((prompt) => ranks.text([0], prompt, many)));
      });
      assert.deepEqual(texts, wantStreams);
      const { preemptions, kvHost } = await statsOf(ranks);
      assert.ok(preemptions > 0, "none was preempted");
      return { tokens, swapped: kvHost?.swappedTokens ?? 0 };
    } finally {
      await ranks.close();
    }
  };
  const [without, swapping] = [await run(0), await run(64 * block)];
  assert.ok(swapping.swapped >= blockTokens, JSON.stringify([without, swapping]));
  assert.ok(swapping.tokens <= without.tokens - blockTokens / 2, JSON.stringify([without, swapping]));
});

test("a container that was killed finds its disk again, drops what is corrupt, and texts are the same", async () => {
  const dirs = ["before", "killed", "corrupt"].map((name) => join(root, name)) as [string, string, string];
  const options = (kvDiskDir: string) => ({ kvOffloadBytes: 64 * block, kvDiskBytes: 64 * block, kvDiskDir });
  const filesIn = (dir: string) => readdirSync(dir, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  const before = await started(options(dirs[0]));
  try {
    assert.deepEqual(await before.text([0], first, few), want.first);
    await until("blocks are on the disk", () => filesIn(dirs[0]).filter(({ name }) => !name.endsWith(".new")).length >= 7);
    for (const dir of dirs.slice(1)) cpSync(dirs[0], dir, { recursive: true }); // what SIGKILL leaves
  } finally {
    await before.close();
  }
  for (const { name, parentPath } of filesIn(dirs[2])) {
    const path = join(parentPath, name);
    writeFileSync(
      path,
      readFileSync(path).map((byte, i) => (i === 9 ? byte ^ 1 : byte)),
    );
  }
  for (const [dir, least, most] of [
    [dirs[1], 1, blockTokens],
    [dirs[2], first.length, first.length],
  ] as const) {
    const ranks = await started(options(dir));
    try {
      const tokens = await computed(ranks, async () => assert.deepEqual(await ranks.text([0], first, few), want.first));
      assert.ok(tokens >= least && tokens <= most, `${tokens} tokens were computed`);
    } finally {
      await ranks.close();
    }
  }
});

test("a rank gives what is on its disk alone to one that asks", async () => {
  const ranks = new Ranks(store, (rank) => ({
    maxContext: 512,
    ...(rank === 1 ? { kvPoolBytes: 8 * block, kvOffloadBytes: 2 * block, kvDiskBytes: 64 * block, kvDiskDir: join(root, "peer") } : {}),
  }));
  try {
    for (const rank of [0, 1]) await ranks.launch(rank);
    await ranks.firstPlan();
    const files = () => readdirSync(join(root, "peer"), { recursive: true }).filter((name) => /[0-9a-f]{32}$/.test(String(name))).length;
    await ranks.text([1], first, 1);
    await until("blocks are on the disk", () => files() >= 7);
    await ranks.text([1], second, 1);
    const tokens = await computed(ranks, async () => {
      assert.deepEqual(await ranks.text([0], first, few, undefined, undefined, 1), want.first);
    });
    assert.ok(tokens <= blockTokens, `${tokens} tokens were computed`);
  } finally {
    await ranks.close();
  }
});
