// Reads past the page cache give the bytes of plain reads, at every place and at once, and what changed on the disk is seen.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { matchesAgain, sha256Hex } from "./digest.ts";
import { openDirectFile } from "./direct-file.ts";
import { openFile } from "./file.ts";

const bytes = Uint8Array.from({ length: 300_001 }, (_, i) => (i * i) >> 3);

test("direct reads give what plain reads give: whole pages, parts of them, the file's end, several at once, and after a change", async () => {
  const dir = mkdtempSync(join(tmpdir(), "enodia-direct-"));
  const path = join(dir, "units");
  writeFileSync(path, bytes);
  const [plain, direct] = [await openFile(path, "Broken"), await openDirectFile(path, "Broken")];
  try {
    const places = [0, 4096, 40_960, 5, 298_000].flatMap((at) => [1, 4096, 100_000].map((length) => [at, length] as const));
    const inside = places.filter(([at, length]) => at + length <= bytes.length);
    await Promise.all(inside.map(async ([at, length]) => assert.deepEqual(await direct.read(at, length), await plain.read(at, length))));
    await assert.rejects(direct.read(299_008, 4096), { code: "Broken" });
    const kept = await direct.read(4096, 9_000);
    writeFileSync(
      path,
      bytes.map((each) => each ^ 1),
    );
    assert.notDeepEqual(await direct.read(4096, 9_000), kept);
    assert.deepEqual(kept, bytes.slice(4096, 13_096), "a read is the caller's own");
  } finally {
    await plain.close();
    await direct.close();
    rmSync(dir, { recursive: true });
  }
});

test("what matched its hash once still shows a changed byte, and a wrong first read does not count", async () => {
  const matches = matchesAgain();
  const [hash, wrong] = [sha256Hex(bytes), bytes.with(70_000, 1)];
  assert.equal(await matches(wrong, hash), false);
  for (const [read, want] of [
    [bytes, true],
    [wrong, false],
    [bytes, true],
  ] as const)
    assert.equal(await matches(read, hash), want);
});
