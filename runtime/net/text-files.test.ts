// The list of text files as it is parsed: what no rank of ours says is refused before a path or a size is taken from it.
import assert from "node:assert/strict";
import { test } from "node:test";
import { ListTextReplySchema } from "./gen/enodia/runtime/v1/runtime_pb.js";
import { create } from "./service.ts";
import { fromTextList, textBytesMax, textDigest, textFileBytesMax, textFileNames } from "./text-files.ts";

const sha256 = "a".repeat(64);
const file = (name: string, bytes = 1) => ({ name, bytes, sha256 });
const reply = (files: readonly { name: string; bytes: number; sha256: string }[], digest = textDigest(files)) =>
  create(ListTextReplySchema, { digest, files: files.map((one) => ({ ...one, bytes: BigInt(one.bytes) })) });

test("a list that a rank makes is read as it was made", () => {
  const files = textFileNames.map((name, i) => file(name, i));
  assert.deepEqual(fromTextList(reply(files)), files);
  assert.deepEqual(fromTextList(reply([])), []);
  assert.deepEqual([...textFileNames].sort(), [...textFileNames]);
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
    assert.throws(() => fromTextList(reply(files, digest)), { code: "InvalidRequest", message: says });
  });
