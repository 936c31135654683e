// A download Job: of leftovers in a claim only a work folder that is nobody's and old goes; its progress, by a clock of the test's own.

import assert from "node:assert/strict";
import { lutimes, mkdir, mkdtemp, readdir, rm, symlink, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { downloadEndText, downloadProgressSchema, readDownloadEnd } from "../../../crds/download.ts";
import { silentLog } from "../../observe/log.ts";
import { Progress } from "./download-progress.ts";
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

test("the rate is of the last twenty seconds, and what was there before counts for nothing in it", () => {
  let now = 0;
  const progress = new Progress("pod", () => now);
  progress.listed("c0ffee");
  progress.start(10_000, 4_000);
  assert.deepEqual([progress.message().doneBytes, progress.message().bytesPerSecond], [4_000, 0]);
  for (let second = 1; second <= 60; second++) {
    now = second * 1000;
    progress.add(second <= 30 ? 10 : 100);
  }
  const message = progress.message();
  assert.equal(message.doneBytes, 4_000 + 30 * 10 + 30 * 100);
  assert.equal(message.bytesPerSecond, 100);
  assert.equal(message.revision, "c0ffee");
  assert.deepEqual(downloadProgressSchema.parse(message), message);
});

test("what was fetched in vain is taken off, and another phase has no rate", () => {
  let now = 0;
  const progress = new Progress("pod", () => now);
  progress.start(100, 0);
  now = 2000;
  progress.add(80);
  progress.add(-80);
  assert.deepEqual([progress.message().doneBytes, progress.message().bytesPerSecond], [0, 0]);
  progress.phase("Importing");
  progress.say("x".repeat(5000));
  assert.equal(progress.message().message.length, 1024);
  assert.ok(downloadProgressSchema.safeParse(progress.message()).success);
});

test("an end is cut to what the kubelet keeps, and what is none is not taken for one", () => {
  const text = downloadEndText({ reason: "SourceRefused", message: "y".repeat(5000) });
  assert.ok(text.length < 4096);
  assert.equal(readDownloadEnd(text)?.reason, "SourceRefused");
  for (const other of ["", "Killed", "{}", '{"reason":"with space","message":""}']) assert.equal(readDownloadEnd(other), undefined);
});
