// The files that make a model, of what repositories have, and listings of buckets that no model has.

import assert from "node:assert/strict";
import { test } from "node:test";
import { AppError } from "../../../crds/common.ts";
import type { SourceSecret } from "../../../crds/model.ts";
import type { Http } from "./http.ts";
import { pickFiles } from "./pick.ts";
import { s3Source } from "./s3.ts";

const beside = ["config.json", "tokenizer.json"];
const store = ["expert-index.json", ...beside, "dense.safetensors", "experts-q4_0.bin", "experts-f32.bin"];
const shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

test("of a store the wanted codec comes, or all where none is named", () => {
  const names = (codecs?: ["q4_0"]) => pickFiles("s3://b/x", [...store, "README.md"], { codecs }).names;
  assert.deepEqual(names(["q4_0"]), ["expert-index.json", ...beside, "dense.safetensors", "experts-q4_0.bin"]);
  assert.deepEqual(
    names(),
    store.toSorted((a, b) => store.indexOf(a) - store.indexOf(b)),
  );
});

test("of a folder the weights come that its index names, and no others", () => {
  const all = [...beside, "model.safetensors.index.json", ...shards, "consolidated.safetensors", "model.gguf"];
  const { kind, names } = pickFiles("hf://a/b", all, { shards });
  assert.deepEqual([kind, names], ["folder", [...beside, "model.safetensors.index.json", ...shards]]);
  assert.deepEqual(pickFiles("hf://a/b", [...beside, "model.safetensors"], {}).names, [...beside, "model.safetensors"]);
});

test("a GGUF in parts is one model, whose first part leads", () => {
  const parts = ["m-00002-of-00002.gguf", "m-00001-of-00002.gguf"];
  assert.deepEqual(pickFiles("hf://a/b", parts, {}), { kind: "gguf", names: ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"] });
});

const refused: Readonly<Record<string, readonly [all: string[], want: RegExp, options?: Parameters<typeof pickFiles>[2]]>> = {
  "a store without the codec names those that it has": [store, /without the codec iq4_nl; it has q4_0, f32/, { codecs: ["iq4_nl"] }],
  "a folder whose shard is missing names it": [[...beside, "model.safetensors.index.json"], /has no model-00001/, { shards }],
  "a folder without a tokenizer": [["config.json", "model.safetensors"], /has no tokenizer\.json/],
  "two GGUF models": [["a.gguf", "b.gguf"], /2 GGUF models \(a\.gguf, b\.gguf\)/],
  nothing: [["README.md"], /neither/],
};
for (const [name, [all, want, options = {}]] of Object.entries(refused))
  test(`${name} is refused`, () => {
    assert.throws(() => pickFiles("hf://a/b", all, options), { name: AppError.name, code: "UnsupportedModel", message: want });
  });

/** A bucket whose pages have these keys and go on as long as `more` says. */
function bucketOf(keys: readonly string[], more: (page: number) => boolean) {
  let pages = 0;
  const text = async (): Promise<string> => {
    const next = more(++pages)
      ? "<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"
      : "<IsTruncated>false</IsTruncated>";
    const contents = keys.map((key) => `<Contents><Key>${key}</Key><Size>1</Size><ETag>e</ETag></Contents>`).join("");
    return `<ListBucketResult>${next}${contents}</ListBucketResult>`;
  };
  const secret = (_: SourceSecret) => undefined;
  const source = s3Source("s3://models/org/tiny", { http: { text } as unknown as Http, secret });
  return { source, pages: () => pages };
}

test("a listing that never ends is refused after a number of pages, whatever is on them", async () => {
  for (const keys of [[], ["org/tiny/../escape"], ["org/tiny/a.bin"]]) {
    const { source, pages } = bucketOf(keys, () => true);
    await assert.rejects(source.list(), (error: unknown) => {
      assert.ok(error instanceof AppError && error.code === "BadSource");
      assert.match(error.message, /lists more than a model has .* a prefix of its own/);
      return true;
    });
    assert.ok(pages() <= 200);
  }
});

test("keys that would be paths elsewhere are no files of the model", async () => {
  const { source } = bucketOf(["org/tiny/../x", "org/tiny//etc/passwd", "org/tiny/.hidden", "org/tiny/ok.bin"], () => false);
  assert.deepEqual(
    (await source.list()).files.map(({ name }) => name),
    ["ok.bin"],
  );
});
