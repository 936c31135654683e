// The disk tier over what a container leaves behind in each way it can end: whole blocks are found, others are dropped, and its bound holds.
import assert from "node:assert/strict";
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { until } from "../../test/kit/wait.ts";
import type { EngineKv, HeldBlock, KvLook, WrittenBlock } from "../engine/engine.ts";
import { silentLog } from "../observe/log.ts";
import { createMetrics } from "../observe/runtime-metrics.ts";
import { KvDisk } from "./kv-disk.ts";

const root = mkdtempSync(join(tmpdir(), "enodia-kv-"));
after(() => rmSync(root, { recursive: true, force: true }));
const positionBytes = 100;
const text = Uint32Array.from({ length: 321 }, (_, i) => i);
const idOf = (at: number): string => at.toString(16).padStart(32, "0");
const blocks: KvLook["blocks"] = [0, 1, 2, 3, 4].map((at) => ({ id: idOf(at), before: idOf(at - 1), from: 64 * at, to: 64 * (at + 1) }));
const rowsOf = ({ from, to }: HeldBlock): Uint8Array => new Uint8Array((to - from) * positionBytes).map((_, i) => (from + i) % 251);
let folders = 0;

async function opened(dir = join(root, `${folders++}`), { bytes = 1 << 20, model = "model", tokenMs = 1_000 } = {}) {
  const written: number[] = [];
  let tell: (block: HeldBlock) => void = () => {};
  const kv: EngineKv = {
    look: async () => ({ here: 0, blocks, tokenBytes: positionBytes, tokenMs }),
    read: async (block) => rowsOf(block),
    write: async ({ block, tokens, data }: WrittenBlock) => {
      assert.deepEqual([tokens, data], [text.slice(block.from, block.to), rowsOf(block)]);
      written.push(block.from / 64);
      return true;
    },
    onKept: (listener) => {
      tell = listener;
    },
  };
  const metrics = createMetrics({ process: "worker", version: "0", constants: {} });
  const info = { modelDigest: model, numerics: "exact", kvPositionBytes: positionBytes };
  const disk = (await KvDisk.open({ dir, bytes, info, kv, metrics, log: silentLog })) as KvDisk;
  const keep = async (...which: number[]): Promise<void> => {
    for (const at of which) tell(blocks[at] as HeldBlock);
    await until("blocks are written", () => disk.blocks !== undefined);
  };
  const brought = async (): Promise<readonly number[]> => {
    await disk.bring({ tokens: text, cacheSalt: "" }, new AbortController().signal);
    return written.splice(0);
  };
  const counted = async (result: string): Promise<number> => {
    const lines = (await metrics.text()).split("\n").filter((line) => line.startsWith("enodia_kv_tier_blocks_total{"));
    const line = lines.find((each) => each.includes('tier="disk"') && each.includes(`result="${result}"`));
    return Number(line?.split(" ").at(-1) ?? 0);
  };
  const heldBytes = async (): Promise<number> => Number(/^enodia_kv_tier_held_bytes\{.*\} (\S+)$/m.exec(await metrics.text())?.[1]);
  const [folder = ""] = readdirSync(dir);
  return { dir, disk, keep, brought, counted, heldBytes, folder: join(dir, folder), fileOf: (at: number) => join(dir, folder, idOf(at)) };
}

test("the next process finds blocks that were written, and no more than a text goes on with", async () => {
  const { dir, keep, brought } = await opened();
  assert.deepEqual(await brought(), []);
  await keep(0, 1, 2, 4);
  assert.deepEqual(await brought(), [0, 1, 2]);
  const next = await opened(dir);
  assert.deepEqual(await next.brought(), [0, 1, 2]);
  assert.equal(await next.counted("found"), 3);
  assert.deepEqual(await next.disk.read(blocks[4] as HeldBlock), rowsOf(blocks[4] as HeldBlock), "for a peer");
  assert.equal(await next.disk.read({ ...(blocks[4] as HeldBlock), from: 270 }), undefined);
});

test("a block that is not whole is dropped, in whatever way, and so is what is no block", async () => {
  const { dir, keep, fileOf, folder } = await opened();
  await keep(0, 1, 2, 3);
  const flipped = readFileSync(fileOf(1));
  flipped[7] = (flipped[7] as number) ^ 1;
  writeFileSync(fileOf(1), flipped);
  truncateSync(fileOf(2), 3_000);
  writeFileSync(`${fileOf(4)}.new`, rowsOf(blocks[4] as HeldBlock));
  mkdirSync(join(folder, "lost+found"));
  const next = await opened(dir);
  assert.deepEqual(readdirSync(folder), [0, 1, 3].map(idOf));
  assert.deepEqual(await next.brought(), [0]);
  assert.deepEqual(readdirSync(folder), [0, 3].map(idOf));
  assert.deepEqual([await next.counted("corrupt"), await next.heldBytes()], [1, 2 * 64 * positionBytes]);
  writeFileSync(fileOf(0), readFileSync(fileOf(3))); // another block's file
  assert.deepEqual(await next.brought(), []);
});

test("a block that cannot be read for a while stays, and one whose file is gone does not", async () => {
  const { disk, keep, fileOf, folder, counted, heldBytes } = await opened();
  await keep(0, 1);
  const aside = join(folder, "aside");
  renameSync(fileOf(0), aside);
  symlinkSync(fileOf(0), fileOf(0)); // ELOOP
  const read = () => disk.read(blocks[0] as HeldBlock);
  assert.deepEqual([await read(), await counted("corrupt")], [undefined, 0]);
  renameSync(aside, fileOf(0));
  assert.deepEqual(await read(), rowsOf(blocks[0] as HeldBlock));
  rmSync(fileOf(0));
  assert.deepEqual([await read(), await counted("corrupt"), await heldBytes()], [undefined, 1, 64 * positionBytes]);
});

test("files stay within the bound, those that were not used for longest leave, also of the process before", async () => {
  const bytes = 4 * 8_192;
  const { dir, keep, brought, folder } = await opened(undefined, { bytes });
  const filled = (): number =>
    readdirSync(folder).reduce((sum, name) => sum + Math.ceil(statSync(join(folder, name)).size / 4_096) * 4_096, 0);
  for (const at of [0, 1, 2]) await keep(at);
  assert.deepEqual(await brought(), [0, 1, 2]);
  await keep(3, 4);
  assert.ok(filled() <= bytes, `${filled()}`);
  assert.deepEqual(readdirSync(folder).sort(), [2, 3, 4].map(idOf));
  await opened(dir, { bytes: 2.5 * 8_192 });
  assert.deepEqual(readdirSync(folder).length, 2);
  await assert.rejects(opened(dir, { bytes: 8_192 }), { code: "KvOffloadTooSmall", message: /spec\.runtime\.kvOffload\.disk/ });
});

test("another model's blocks are removed, and other folders stay", async () => {
  const { dir, keep } = await opened();
  await keep(0);
  mkdirSync(join(dir, "mine"));
  const other = await opened(dir, { model: "other" });
  assert.deepEqual(await other.brought(), []);
  assert.equal(readdirSync(dir).length, 2);
  assert.ok(readdirSync(dir).includes("mine"));
});

test("where rows are faster than the disk nothing is brought until it is tried again", async () => {
  const { keep, brought } = await opened(undefined, { tokenMs: 1e-9 });
  await keep(0, 1, 2);
  assert.deepEqual(await brought(), [0], "its rate is not known");
  assert.deepEqual(await brought(), []);
});
