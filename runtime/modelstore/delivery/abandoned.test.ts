// Leftovers of downloads in a claim: only a work folder that is nobody's and old goes, and all that is in doubt stays.
import assert from "node:assert/strict";
import { lutimes, mkdir, mkdtemp, readdir, rm, symlink, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { silentLog } from "../../observe/log.ts";
import { removeAbandoned } from "./downloader.ts";

const hour = 3_600_000;
const name = (digit: number): string => `.enodia-${String(digit).repeat(16)}`;

let claim: string;
beforeEach(async () => {
  claim = await mkdtemp(join(tmpdir(), "enodia-claim-"));
});
afterEach(() => rm(claim, { recursive: true, force: true }));

/** A folder with a file below another one, each last written so many hours ago. */
async function folder(at: string, hours: { readonly file: number; readonly folder?: number }): Promise<void> {
  const [top, below] = [join(claim, at), join(claim, at, "files")];
  await mkdir(below, { recursive: true });
  await writeFile(join(below, "piece"), "bytes");
  const ago = (of: number) => new Date(Date.now() - of * hour);
  await utimes(join(below, "piece"), ago(hours.file), ago(hours.file));
  for (const one of [below, top]) await utimes(one, ago(hours.folder ?? hours.file), ago(hours.folder ?? hours.file));
}

test("a work folder that no deployment has, and in which nothing was written for a day, is removed and told", async () => {
  await folder(name(1), { file: 25 });
  const told: object[] = [];
  await removeAbandoned(claim, [name(2)], { ...silentLog, info: (fields: unknown) => void told.push(fields as object) });
  assert.deepEqual(await readdir(claim), []);
  const [{ bytes, folder: at } = assert.fail()] = told as { bytes: number; folder: string }[];
  assert.deepEqual([bytes, at], [5, join(claim, name(1))]);
});

test("one that a deployment has, or that was written to, stays, and so does all that is none", async () => {
  await folder(name(1), { file: 1_000 });
  await folder(name(2), { file: 23, folder: 1_000 });
  await folder(".enodia-other", { file: 1_000 });
  await folder("Qwen-Qwen3-30B-A3B-0123456789abcdef", { file: 1_000 });
  await writeFile(join(claim, name(3)), "a file of such a name");
  await symlink(join(claim, "Qwen-Qwen3-30B-A3B-0123456789abcdef"), join(claim, name(4)));
  const before = await readdir(claim, { recursive: true });
  await removeAbandoned(claim, [name(1)], silentLog);
  assert.deepEqual(await readdir(claim, { recursive: true }), before);
});

test("links in it are not followed", async () => {
  await folder("store", { file: 1_000 });
  await folder(name(1), { file: 1_000 });
  await symlink(join(claim, "store"), join(claim, name(1), "store"));
  const old = new Date(Date.now() - 1_000 * hour);
  await lutimes(join(claim, name(1), "store"), old, old);
  await utimes(join(claim, name(1)), old, old);
  await removeAbandoned(claim, [], silentLog);
  assert.deepEqual(await readdir(claim), ["store"]);
  assert.deepEqual(await readdir(join(claim, "store", "files")), ["piece"]);
});

test("a claim that cannot be read is warned of, and the download goes on", async () => {
  let warned = 0;
  await removeAbandoned(join(claim, "none"), [], { ...silentLog, warn: () => void warned++ });
  assert.equal(warned, 1);
});
