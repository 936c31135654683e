// A folder's digest is computed once while its files are the same, and again when any of them was written.

import assert from "node:assert/strict";
import { mkdir, mkdtemp, rename, rm, symlink, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { digestOfFolder } from "./initial-weights.ts";

test("a digest is kept while the files are the same", async (t) => {
  const dir = await mkdtemp(join(tmpdir(), "enodia-digest-"));
  t.after(() => rm(dir, { recursive: true }));
  let computed = 0;
  const ask = () => digestOfFolder(dir, async () => `digest ${++computed}`);
  const file = join(dir, "model.safetensors");
  await writeFile(file, "one");
  assert.equal(await ask(), "digest 1");
  assert.equal(await ask(), "digest 1");
  await writeFile(file, "two");
  assert.equal(await ask(), "digest 2", "a file of the same size was written");
  await utimes(file, 1, 1);
  await writeFile(`${file}.new`, "six");
  await utimes(`${file}.new`, 1, 1);
  await rename(`${file}.new`, file);
  assert.equal(await ask(), "digest 3", "a file of the same size and time took its place");
  await writeFile(join(dir, "model.safetensors.index.json"), "{}");
  assert.equal(await ask(), "digest 4", "a file came");
  assert.equal(await ask(), "digest 4");
});

test("what a run writes into a folder of the model is none of its weights, nor is a link to nothing in the way", async (t) => {
  const dir = await mkdtemp(join(tmpdir(), "enodia-digest-"));
  t.after(() => rm(dir, { recursive: true }));
  await writeFile(join(dir, "model.safetensors"), "one");
  await mkdir(join(dir, "run"));
  await symlink("nowhere", join(dir, "run", "away.safetensors"));
  await symlink("nowhere", join(dir, "away.json"));
  let computed = 0;
  const ask = () => digestOfFolder(dir, async () => `digest ${++computed}`);
  assert.equal(await ask(), "digest 1");
  await writeFile(join(dir, "run", "manifest.json"), "a step");
  await writeFile(join(dir, "metrics.jsonl"), "a step");
  assert.equal(await ask(), "digest 1");
});

test("files that change while they are read are read again", async (t) => {
  const dir = await mkdtemp(join(tmpdir(), "enodia-digest-"));
  t.after(() => rm(dir, { recursive: true }));
  const file = join(dir, "model.safetensors");
  await writeFile(file, "one");
  const digest = await digestOfFolder(dir, async () => {
    await writeFile(file, "changed");
    return "of either";
  });
  assert.equal(digest, "of either");
  assert.equal(await digestOfFolder(dir, async () => "of the change"), "of the change");
});
