// `inspect` asked for a backend, on a model whose heads some backends cannot compute; a worker that opens it says the same.
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { run } from "../../operator/cli/commands/model.ts";
import { changedCheckpoint } from "../../test/support/changed-checkpoint.ts";
import { openModel } from "../engine/open.ts";
import { importMoe } from "./import-moe.ts";
import { formatReport, inspect } from "./inspect.ts";

const dir = await mkdtemp(join(tmpdir(), "enodia-inspect-"));
after(() => rm(dir, { recursive: true }));
const quiet = () => undefined;

const headDim = 18;
const checkpoint = await changedCheckpoint(join(import.meta.dirname, "../../test/golden/tiny-f32"), dir, (tensors, config) => {
  config.head_dim = headDim;
  for (const [name, { shape }] of tensors) {
    const [rows = 0, columns = 0] = shape;
    const changed = /\.[qkv]_proj/.test(name)
      ? [(rows / 16) * headDim, columns]
      : /\.o_proj/.test(name)
        ? [rows, (columns / 16) * headDim]
        : shape;
    if (changed !== shape) tensors.set(name, { shape: changed, data: new Float32Array(changed[0]! * changed[1]!).fill(0.01) });
  }
});
const store = join(dir, "store");
await importMoe({ from: checkpoint, out: store, codecs: ["f32"], overwrite: false }, quiet);

const refused = (error: any) => {
  assert.equal(error.code, "UnsupportedShape");
  assert.match(error.message, /block\.0: attention with a head size of 18 is not computed by this backend, only multiples of 8 \(.*cpu/);
  return true;
};

test("a head size that a backend cannot do is refused by inspect --backend, and the backends that can are said to", async () => {
  await assert.rejects(inspect({ dir: store, verify: false, backend: "cpu" }, quiet), refused);
  for (const backend of ["reference", "webgpu"] as const) {
    const report = await inspect({ dir: store, verify: false, backend }, quiet);
    assert.ok(report.kind === "store");
    assert.equal(report.backend, backend);
    assert.match(formatReport(report), new RegExp(`^backend +${backend} can compute it$`, "m"));
  }
  assert.ok(!("backend" in (await inspect({ dir: store, verify: false }, quiet))));
});

test("a backend that there is not is refused with the names of those that there are", async () => {
  await assert.rejects(run(["inspect", store, "--backend", "gpu"]), {
    code: "BadOption",
    message: '--backend is "gpu"; it must be cpu or ggml or webgpu or reference',
  });
});

test("and when the model is opened, before any request", async () => {
  const options = { storeDir: store, codec: "f32", kvPoolBytes: 1 << 20, maxContext: 32, threads: 1 } as const;
  await assert.rejects(openModel({ ...options, backend: "cpu" }), refused);
  await (await openModel({ ...options, backend: "reference" })).close();
});
