// `enodia plan tiers` and `enodia model experts` on a small trace: tables, pictures, JSON, and files that are none.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { after, before, test } from "node:test";
import { expertTraceOutput, writeExpertTrace } from "../expert-trace-file.ts";

const main = resolve(import.meta.dirname, "../main.ts");
const dir = mkdtempSync(join(tmpdir(), "enodia-tiers-"));
const file = join(dir, "t.json.gz");
after(() => rmSync(dir, { recursive: true }));

before(async () => {
  const [layers, experts, topK] = [3, 4, 2];
  const texts = ["code", "law"].map((topic) => ({ topic, prompt: 4, generated: 20 }));
  const ids = Uint16Array.from({ length: 48 * layers * topK }, (_, at) => {
    const [token, layer] = [Math.floor(at / (layers * topK)), Math.floor(at / topK) % layers];
    return (Math.floor(token / 5) + layer + (at % topK)) % experts;
  });
  await writeExpertTrace(expertTraceOutput(file, false), {
    ...{ modelDigest: "0123456789abcdef", grid: { layers, experts }, topK, texts, ids, width: 1, asked: [], layerMs: 1 },
    expertBytes: [1e6, 1e6, 1e6],
  });
});

function enodia(...args: string[]): { code: number | null; out: string; err: string } {
  const done = spawnSync(process.execPath, [main, ...args], { encoding: "utf8", cwd: dir });
  return { code: done.status, out: done.stdout, err: done.stderr };
}

test("tiers prints recall, hits, milliseconds and bytes of each predictor and eviction, and a picture", () => {
  const picture = join(dir, "tiers.svg");
  const options = ["--share", "100,50", "--predictor", "last,transitions", "--eviction", "lru,belady"];
  const { code, out, err } = enodia("plan", "tiers", file, ...options, "--plot", picture);
  assert.equal(code, 0, err);
  assert.match(out, /3 layers of 4 experts, top 2, 11\.44Mi; disk 953\.67Mi\/s, 1\.00 ms a layer/);
  assert.match(out, /PREDICTOR +EVICTION +HIT 100% +MS +MB +HIT 50% +MS +MB/);
  for (const name of ["none", "last", "transitions", "future"])
    for (const eviction of ["lru", "belady"]) assert.match(out, new RegExp(`${name} +${eviction} +100\\.0% +0\\.00 +0\\.0 +\\d`));
  assert.match(readFileSync(picture, "utf8"), /data-made-by="enodia plan tiers".*of all experts 100%, 50% in memory/s);
  const json = JSON.parse(enodia("plan", "tiers", file, ...options, "-o", "json").out);
  assert.deepEqual([json.rows.length, json.recalls.length, json.rows[0].results.length], [8, 2, 2]);
  assert.ok(json.rows.every(({ results }: { results: { hitRate: number }[] }) => results[0]?.hitRate === 1));
});

test("what routers were not asked is said, a shuffled trace has none of it, and one number is one number", () => {
  const few = ["--share", "50", "--predictor", "last,next-gate", "--eviction", "lru"];
  assert.match(enodia("plan", "tiers", file, ...few, "--lookahead", "3").out, /next-gate predicts 0 of 3 layers: the trace has no more\./);
  const { out } = enodia("plan", "tiers", file, ...few, "--shuffle");
  assert.match(out, /last/);
  assert.doesNotMatch(out, /next-gate/);
  const none = enodia("plan", "tiers", file, "--shuffle", "--predictor", "next-gate,residual");
  assert.deepEqual([none.code !== 0, none.out], [true, ""]);
  assert.match(none.err, /--shuffle: next-gate, residual ask routers.*name others by --predictor/s);
  assert.match(enodia("plan", "tiers", file, "--ahead", "1,2").err, /--ahead.*it must be one number/s);
});

test("experts prints and draws what each topic uses", () => {
  const picture = join(dir, "experts.svg");
  const { code, out, err } = enodia("model", "experts", file, "--svg", picture);
  assert.equal(code, 0, err);
  assert.match(out, /code +law/);
  assert.match(out, /\n {3}0 {2}\S{4} {2}\S{4}\n/);
  assert.match(readFileSync(picture, "utf8"), /code: 24 tokens, \d+% apart/);
  const uses = JSON.parse(enodia("model", "experts", file, "-o", "json").out);
  assert.deepEqual([uses.length, uses[0].use.length, uses[0].use[0].length], [2, 3, 4]);
});

test("what is no trace of experts is refused, and what others wrote is not replaced", () => {
  const other = join(dir, "other.gz");
  writeFileSync(other, "text");
  const { code, err } = enodia("plan", "tiers", other);
  assert.notEqual(code, 0);
  assert.match(err, /other\.gz: is no whole gzip; record one by: enodia model trace/);
  assert.match(enodia("model", "trace", dir, "--text", other, "--out", other, "--overwrite").err, /is not an expert trace/);
  assert.match(enodia("model", "trace", dir, "--out", other).err, /--text is missing/);
});
