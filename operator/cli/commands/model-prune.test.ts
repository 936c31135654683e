// `enodia model prune` keeps the experts that either kind of record has most often.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { after, test } from "node:test";
import { importMoe } from "../../../runtime/modelstore/import-moe.ts";
import { encodeTrace } from "../../planner/offline/traces.ts";
import { expertTraceOutput, writeExpertTrace } from "../expert-trace-file.ts";

const dir = mkdtempSync(join(tmpdir(), "enodia-prune-"));
after(() => rmSync(dir, { recursive: true }));
const main = resolve(import.meta.dirname, "../main.ts");
const tiny = resolve(import.meta.dirname, "../../../test/golden/tiny-f32");
const sizes = { layers: 2, experts: 4 };

test("the record may be of a deployment's load or of texts", async () => {
  const { modelDigest } = await importMoe({ from: tiny, out: join(dir, "tiny"), codecs: ["f32"], overwrite: false }, () => {});
  const load = { ...sizes, name: "chat", windows: 1, counts: Uint32Array.of(3, 1, 0, 2, 0, 5, 5, 1) };
  writeFileSync(join(dir, "load"), await encodeTrace(load));
  const ids = [0, 3, 1, 2].flatMap((first) => [first, 3, 1, 2]); // [tokens][layers][topK]
  await writeExpertTrace(expertTraceOutput(join(dir, "texts"), false), {
    ...{ modelDigest, grid: sizes, topK: 2, expertBytes: [1, 1], layerMs: 1, width: 1, asked: [] },
    ...{ texts: [{ topic: "chat", prompt: 4, generated: 0 }], ids: Uint16Array.from(ids) },
  });
  for (const record of ["load", "texts"]) {
    const args = ["model", "prune", "tiny", `${record}-out`, "--keep", "2", "--load", record, "-o", "json"];
    const { status, stdout, stderr } = spawnSync(process.execPath, [main, ...args], { encoding: "utf8", cwd: dir });
    assert.equal(status, 0, stderr);
    assert.deepEqual(JSON.parse(stdout).kept, [
      [0, 3],
      [1, 2],
    ]);
  }
});
