// `inspect` asked whether a backend can compute a model. What is refused, and how: runtime/compute/call-checks.test.ts.
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { backendNames } from "../../crds/names.ts";
import { importMoe } from "./import-moe.ts";
import { formatReport, inspect } from "./inspect.ts";

const dir = await mkdtemp(join(tmpdir(), "enodia-inspect-"));
after(() => rm(dir, { recursive: true }));
const quiet = () => undefined;
const store = join(dir, "store");
await importMoe({ from: join(import.meta.dirname, "../../test/golden/tiny-f32"), out: store, codecs: ["f32"], overwrite: false }, quiet);

test("inspect --backend says that a backend can compute the model, and nothing of backends unasked", async () => {
  for (const backend of backendNames) {
    const report = await inspect({ dir: store, verify: false, backend }, quiet);
    assert.ok(report.kind === "store");
    assert.equal(report.backend, backend);
    assert.match(formatReport(report), new RegExp(`^backend +${backend} can compute it$`, "m"));
  }
  assert.ok(!("backend" in (await inspect({ dir: store, verify: false }, quiet))));
});
