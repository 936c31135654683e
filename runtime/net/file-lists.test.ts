// The lists of files as they are parsed: what no rank of ours says is refused before a path or a size is taken from it.
import assert from "node:assert/strict";
import { test } from "node:test";
import { fromFileList, storeFiles, textBytesMax, textDigest, textFileBytesMax, textFiles } from "./file-lists.ts";
import { FileListSchema } from "./gen/enodia/runtime/v1/runtime_pb.js";
import { create } from "./service.ts";

const sha256 = "a".repeat(64);
const file = (name: string, bytes = 1) => ({ name, bytes, sha256 });
const reply = (files: readonly { name: string; bytes: number; sha256: string }[], digest = textDigest(files)) =>
  create(FileListSchema, { digest, files: files.map((one) => ({ ...one, bytes: BigInt(one.bytes) })) });

test("a list that a rank makes is read as it was made", () => {
  const files = textFiles.names.map((name, i) => file(name, i));
  assert.deepEqual(fromFileList(reply(files), textFiles).files, files);
  assert.deepEqual(fromFileList(reply([]), textFiles).files, []);
  assert.deepEqual([...textFiles.names].sort(), textFiles.names);
});

test("the digest says names, hashes and their order", () => {
  const [one, two] = [file("config.json"), { ...file("tokenizer.json"), sha256: "b".repeat(64) }];
  const digests = [[one], [two], [one, two], [{ ...one, sha256: two.sha256 }], []].map(textDigest);
  assert.equal(new Set(digests).size, digests.length);
});

const refused: Readonly<Record<string, { files: Parameters<typeof reply>[0]; digest?: string; says: RegExp }>> = {
  "a path": { files: [file("../../etc/passwd")], says: /files\[0\]\.name: "\.\.\/\.\.\/etc\/passwd"/ },
  "a file that is none of them": { files: [file("config.json"), file("dense.safetensors")], says: /files\[1\]\.name/ },
  "a file twice": { files: [file("config.json"), file("config.json")], says: /files\[1\]\.name.*out of order/ },
  "another order": { files: [file("tokenizer.json"), file("config.json")], says: /files\[1\]\.name.*out of order/ },
  "a hash that is none": { files: [{ ...file("config.json"), sha256: "A".repeat(64) }], says: /files\[0\]\.sha256/ },
  "a file that is too large": { files: [file("tokenizer.json", textFileBytesMax + 1)], says: /tokenizer\.json has/ },
  "files that are too large together": {
    files: ["config.json", "tokenizer.json"].map((name) => file(name, textBytesMax / 2 + 1)),
    says: /more than the/,
  },
  "the digest of other files": { files: [file("config.json")], digest: sha256, says: /digest/ },
};

for (const [name, { files, digest, says }] of Object.entries(refused))
  test(`refused: ${name}`, () => {
    assert.throws(() => fromFileList(reply(files, digest), textFiles), { code: "InvalidRequest", message: says });
  });

test("a store's list has its model's digest, and needs all that a rank opens", () => {
  const needed = ["config.json", "dense.safetensors", "expert-index.json"].map((name) => file(name, 2 ** 26));
  assert.deepEqual(fromFileList(reply(needed, sha256), storeFiles), { digest: sha256, files: needed });
  const refusing = (files: typeof needed, says: RegExp, digest = sha256) =>
    assert.throws(() => fromFileList(reply(files, digest), storeFiles), { code: "InvalidRequest", message: says });
  for (const [i, { name }] of needed.entries()) refusing(needed.toSpliced(i, 1), new RegExp(`${name} is missing`));
  refusing(needed, /digest/, "none");
  refusing(needed.with(1, file("dense.safetensors", 2 ** 40 + 1)), /dense.safetensors has/);
});
