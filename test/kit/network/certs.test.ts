// Certificate authorities of tests leave no listener each, which Node would warn of as a leak, and their folders go with the process.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

test("a process that makes many has one listener for all, and leaves none of their folders", () => {
  const source = `import { createTestCa } from ${JSON.stringify(join(import.meta.dirname, "certs.ts"))};
    const listeners = process.listenerCount("exit");
    const folders = [createTestCa().dir, createTestCa().dir];
    console.log(JSON.stringify({ folders, added: process.listenerCount("exit") - listeners }));`;
  const said = execFileSync(process.execPath, ["--input-type=module-typescript", "--eval", source], { encoding: "utf8" });
  const { folders, added } = JSON.parse(said);
  assert.equal(added, 0);
  assert.deepEqual(folders.map(existsSync), [false, false]);
});
