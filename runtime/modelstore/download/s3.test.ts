// Listings of a bucket that no model has: endless ones end, and say what to do.
import assert from "node:assert/strict";
import { test } from "node:test";
import { AppError } from "../../../crds/common.ts";
import type { SourceSecret } from "../../../crds/model.ts";
import type { Http } from "./http.ts";
import { s3Source } from "./s3.ts";

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
