// The journal of a file on its way: what a kill at any moment leaves is gone on with, and nothing that is not on the disk counts as done.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { appendFile, mkdtemp, readdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import fc from "fast-check";
import type { RemoteFile } from "./download-source.ts";
import { FileInPieces } from "./pieces.ts";

const root = await mkdtemp(join(tmpdir(), "enodia-pieces-"));
const all: FileInPieces[] = [];
after(async () => {
  for (const one of all) await one.close();
  await rm(root, { recursive: true });
});
let folders = 0;
const newDir = () => mkdtemp(join(root, `d${folders++}-`));

const size = 10;
const content = Uint8Array.from({ length: 95 }, (_, i) => (i * 7) & 255);
const file: RemoteFile = { name: "m.bin", bytes: content.length, sha256: createHash("sha256").update(content).digest("hex") };
const opened = async (dir: string, of: RemoteFile = file): Promise<FileInPieces> => {
  const found = await FileInPieces.open(of, dir, size);
  assert.ok(found);
  all.push(found);
  return found;
};
const fetchPiece = async (one: FileInPieces, index: number): Promise<void> => {
  const piece = [...one.missing()].find((each) => each.index === index);
  assert.ok(piece);
  await one.write(content.subarray(piece.from, piece.to), piece.from);
  await one.done(piece);
};
const missing = (one: FileInPieces) => [...one.missing()].map(({ index }) => index);

/** Some pieces of a file that was then killed: nothing was closed in order. */
async function begun(indexes: readonly number[]): Promise<string> {
  const dir = await newDir();
  const one = await opened(dir);
  for (const index of indexes) await fetchPiece(one, index);
  await one.close();
  return dir;
}

test("what is done stays done, in whatever order it came, and only what is missing is counted as such", async () => {
  const one = await opened(await begun([9, 0, 4]));
  assert.deepEqual(missing(one), [1, 2, 3, 5, 6, 7, 8]);
  assert.deepEqual([one.missingCount, one.missingBytes], [7, 70], "the last piece has five bytes");
  await one.close();
});

test("a line of the journal that was cut tells of no other piece, now or later", async () => {
  const dir = await begun([0]);
  await appendFile(join(dir, "m.bin.pieces"), "1"); // of "12\\n", say
  for (let run = 0; run < 2; run++) {
    const one = await opened(dir);
    assert.deepEqual(missing(one), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    await one.close();
  }
});

test("a journal of another content, of a file that is gone, or of noise counts for nothing", async () => {
  const fresh = Array.from({ length: 10 }, (_, index) => index);
  const changed = await opened(await begun([3]), { ...file, sha256: "0".repeat(64) });
  assert.deepEqual(missing(changed), fresh);
  const gone = await begun([3]);
  await rm(join(gone, "m.bin.part"));
  assert.deepEqual(missing(await opened(gone)), fresh);
  const noisy = await begun([3]);
  await writeFile(join(noisy, "m.bin.pieces"), "\n\n-1\n99\n0x3\n \n");
  assert.deepEqual(missing(await opened(noisy)), fresh);
});

test("a file has its name only when it is whole and right, and a wrong one leaves nothing behind", async () => {
  const dir = await begun([0, 1, 2, 3, 4, 5, 6, 7, 8]);
  const one = await opened(dir);
  assert.ok(!(await readdir(dir)).includes("m.bin"));
  await fetchPiece(one, 9);
  await one.finish();
  assert.deepEqual(await readdir(dir), ["m.bin"]);
  assert.equal(await FileInPieces.open(file, dir, size), undefined);
  await truncate(join(dir, "m.bin"), 50);
  assert.deepEqual(missing(await opened(dir)).length, 10, "one that is shorter is none");
  const wrong = await begun([]);
  const other = await opened(wrong);
  for (const { index, from } of [...other.missing()]) {
    await other.write(new Uint8Array(5), from);
    await other.done({ index, from, to: from + 5 });
  }
  await assert.rejects(other.finish(), /m\.bin: has SHA-256 .*, the source says .*it was removed/);
  assert.deepEqual(await readdir(wrong), []);
});

test("whatever pieces come in whatever order over whatever kills, the file is the file", async () => {
  const runs = fc.array(fc.array(fc.nat(9), { maxLength: 5 }), { maxLength: 4 });
  await fc.assert(
    fc.asyncProperty(runs, async (kills) => {
      const dir = await newDir();
      for (const pieces of kills) {
        const one = await opened(dir);
        for (const index of pieces) if (missing(one).includes(index)) await fetchPiece(one, index);
        await one.close();
      }
      const last = await opened(dir);
      for (const index of missing(last)) await fetchPiece(last, index);
      await last.finish();
      assert.deepEqual(new Uint8Array(await readFile(join(dir, "m.bin"))), content);
    }),
    { numRuns: 30 },
  );
});
