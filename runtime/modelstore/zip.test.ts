// Wheels: a real archive made by Python's own zip writer unpacks; damaged and hostile ones are refused and leave nothing.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { AppError } from "../../crds/common.ts";
import { extractZip, listZip } from "./zip.ts";

const dir = await mkdtemp(join(tmpdir(), "enodia-zip-"));
after(() => rm(dir, { recursive: true }));
const wheel = join(dir, "model.whl");
const script = `
import sys, zipfile
with zipfile.ZipFile(sys.argv[1], "w") as z:
    z.writestr("pkg/model.gguf", b"GGUF" + bytes(range(256)) * 200, zipfile.ZIP_DEFLATED)
    z.writestr("../../etc/evil", b"evil", zipfile.ZIP_STORED)
`;
execFileSync("python3", ["-c", script, wheel]);
const whole = await readFile(wheel);
const out = join(dir, "out");
const bytesMax = 1024 * 1024;

const refusal = (want: RegExp) => (error: unknown) => {
  assert.ok(error instanceof AppError, String(error));
  assert.equal(error.code, "BadWheel");
  assert.match(error.message, want);
  return true;
};

test("members are listed and unpack to the file the caller names, deflated or stored", async () => {
  const entries = await listZip(wheel);
  assert.deepEqual(
    entries.map(({ name, size }) => [name, size]),
    [
      ["pkg/model.gguf", 51204],
      ["../../etc/evil", 4],
    ],
  );
  await extractZip(wheel, entries[0]!, out, bytesMax);
  assert.equal((await readFile(out)).subarray(0, 5).toString("latin1"), "GGUF\0");
  await extractZip(wheel, entries[1]!, out, bytesMax); // its name leads nowhere
  assert.equal(await readFile(out, "utf8"), "evil");
});

async function changed(change: (bytes: Buffer) => Buffer | undefined): Promise<string> {
  const path = join(dir, "changed.whl");
  const copy = Buffer.from(whole);
  await writeFile(path, change(copy) ?? copy);
  return path;
}

test("a file that is no archive, or one cut short, is refused", async () => {
  await assert.rejects(listZip(await changed(() => Buffer.from("hello"))), refusal(/too short/));
  await assert.rejects(listZip(await changed(() => Buffer.alloc(5000))), refusal(/no end record/));
  await assert.rejects(listZip(await changed((bytes) => bytes.subarray(0, bytes.length - 40))), refusal(/no end record|directory/));
});

test("a member that is larger than it says, or differs from its checksum, is refused and nothing is left", async () => {
  const before = await readdir(dir);
  const directory = whole.indexOf(Buffer.from([0x50, 0x4b, 1, 2]));
  const small = await changed((bytes) => {
    bytes.writeUInt32LE(100, directory + 24);
    return undefined;
  });
  await assert.rejects(extractZip(small, (await listZip(small))[0]!, join(dir, "no"), bytesMax), refusal(/larger than it says/));
  const sum = await changed((bytes) => {
    bytes.writeUInt32LE(1, directory + 16);
    return undefined;
  });
  await assert.rejects(extractZip(sum, (await listZip(sum))[0]!, join(dir, "no"), bytesMax), refusal(/checksum/));
  const body = await changed((bytes) => {
    bytes.fill(0xff, 60, 120);
    return undefined;
  });
  await assert.rejects(extractZip(body, (await listZip(body))[0]!, join(dir, "no"), bytesMax), refusal(/cannot be unpacked|checksum/));
  await assert.rejects(extractZip(wheel, (await listZip(wheel))[0]!, join(dir, "no"), 1000), refusal(/more than the 1000 allowed/));
  assert.deepEqual(
    (await readdir(dir)).filter((name) => name !== "changed.whl"),
    before.filter((name) => name !== "changed.whl"),
  );
});

test("truncations and flipped bytes list or are refused", async () => {
  let state = 3;
  const random = (below: number) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state % below;
  };
  for (let i = 0; i < 120; i++) {
    const path = await changed((bytes) => {
      if (i % 3 === 0) return bytes.subarray(0, random(bytes.length));
      const at = bytes.length - 1 - random(200);
      bytes[at]! ^= 1 << random(8);
      return bytes;
    });
    try {
      for (const entry of await listZip(path)) await extractZip(path, entry, out, bytesMax);
    } catch (error) {
      assert.ok(error instanceof AppError, String(error));
    }
  }
});
