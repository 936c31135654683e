import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { fetched, within } from "./fetched.ts";

function cache(t: TestContext) {
  const root = mkdtempSync(join(tmpdir(), "enodia-fetched-"));
  t.after(() => rmSync(root, { recursive: true }));
  return { root, folder: join(root, "files-1") };
}

const filled = async (own: string): Promise<string> => {
  mkdirSync(join(own, "files"));
  writeFileSync(join(own, "files", "one"), "1");
  return "files";
};
const refused = (): Promise<string> => assert.fail("it is not to be fetched");
const old = (path: string, hours: number): void => utimesSync(path, Date.now() / 1000 - hours * 3600, Date.now() / 1000 - hours * 3600);

test("a folder is there whole or not at all, and is fetched once", async (t) => {
  const { root, folder } = cache(t);
  const half = async (own: string): Promise<string> => {
    await filled(own);
    throw new Error("the line broke\nin the middle");
  };
  await assert.rejects(fetched(folder, { again: false }, half), /the line broke/);
  assert.deepEqual(readdirSync(root), ["files-1.failed"]);
  await fetched(folder, { again: true }, filled);
  await fetched(folder, { again: true }, refused);
  assert.equal(readFileSync(join(folder, "one"), "utf8"), "1");
  assert.deepEqual(readdirSync(root), ["files-1"]);
});

test("what failed is not tried again for a day, unless that is asked for", async (t) => {
  const { folder } = cache(t);
  const offline = () => Promise.reject(new Error("no network"));
  await assert.rejects(fetched(folder, { again: false }, offline), /^Error: no network$/);
  await assert.rejects(fetched(folder, { again: false }, refused), /^Error: no network \(tried within a day: rm .*files-1.failed/);
  old(`${folder}.failed`, 25);
  await fetched(folder, { again: false }, filled);
  assert.ok(existsSync(folder) && !existsSync(`${folder}.failed`));
});

test("what a killed process left is removed, and what another fetches now is not", async (t) => {
  const { root, folder } = cache(t);
  for (const name of ["new-left", "new-now"]) mkdirSync(join(root, name, "files"), { recursive: true });
  old(join(root, "new-left"), 2);
  await fetched(folder, { again: false }, filled);
  assert.deepEqual(readdirSync(root).sort(), ["files-1", "new-now"]);
});

test("all programs that fetch have one time together", (t) => {
  t.mock.method(performance, "now", () => 1_000);
  const left = within({ log: () => {}, timeoutMs: 5_000, again: false });
  t.mock.method(performance, "now", () => 4_000);
  assert.deepEqual(left("here"), { cwd: "here", timeoutMs: 2_000 });
  t.mock.method(performance, "now", () => 6_000);
  assert.throws(() => left("here"), /within 5 s/);
});
