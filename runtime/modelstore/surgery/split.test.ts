// All slices of a dense FFN together are that FFN; how columns are dealt, and what is refused.
import assert from "node:assert/strict";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { AppError } from "../../../crds/common.ts";
import { loadModel, weightsIn } from "../../../test/kit/models/small-engine.ts";
import { createBackend } from "../../compute/index.ts";
import { relativeError } from "../../compute/op-self-test.ts";
import { openStore } from "../../weights/store-reader.ts";
import { importModel } from "../import.ts";
import { inspect } from "../inspect.ts";
import { byLabel, inOrder, strongest } from "./slices.ts";
import { type SplitOptions, split } from "./split.ts";

const dir = await mkdtemp(join(tmpdir(), "enodia-split-"));
after(() => rm(dir, { recursive: true }));
const quiet = () => undefined;
const shell = { overwrite: true, cache: join(dir, "cache"), secrets: {} };
const backend = await createBackend("cpu", { threads: 1 });
after(() => backend.close());
const from = join(dir, "dense");
const gguf = join(import.meta.dirname, "../../../test/golden/tiny-gguf/tiny-llama.gguf");
await importModel({ ...shell, source: gguf, out: from, folder: true }, quiet);
const base: SplitOptions = {
  from,
  out: join(dir, "out"),
  overwrite: true,
  experts: 8,
  topK: 8,
  by: "columns",
  codecs: ["f32"],
  threads: 1,
};

async function run(folder: string) {
  const store = await openStore(folder);
  const model = await loadModel(backend, weightsIn(store, "f32"), { context: 64 });
  const logits = (await model.forward([7, 101, 30, 5, 200, 31], 0)).slice();
  const routes = model.routes.flatMap((layer) => [...layer]);
  await model.dispose();
  await store.close();
  return { logits, routes };
}

await importModel({ ...shell, source: from, out: join(dir, "served"), codecs: ["f32"] }, quiet);
const { logits: want } = await run(join(dir, "served"));

for (const [by, experts] of [
  ["columns", 4],
  ["columns", 3],
  ["domain", 8],
] as const)
  test(`${experts} experts by ${by}, all of them chosen, give the dense model's logits but for the order of sums`, async () => {
    const { out } = await split({ ...base, by, experts, topK: experts }, quiet);
    const off = relativeError((await run(out)).logits, want);
    assert.ok(off < 1e-5, `relative error ${off}`);
    const report = await inspect({ dir: out, verify: true, backend: "cpu" }, quiet);
    assert.deepEqual(report.kind === "store" && [report.experts, report.topK, report.ffn], [experts, experts, 96 / experts]);
  });

test("with fewer experts for a token the router chooses more than one set of them, and the logits differ", async () => {
  for (const by of ["columns", "domain"] as const) {
    const { logits, routes } = await run((await split({ ...base, by, topK: 2 }, quiet)).out);
    assert.ok(new Set(routes).size > 2);
    assert.ok(relativeError(logits, want) > 1e-3);
  }
});

test("a label takes the columns that its tokens use above all, every column goes once, and its tokens are those of its columns", () => {
  const ffn = 12;
  const labels = Uint16Array.from({ length: 30 }, (_, token) => token % 3);
  const values = Float32Array.from({ length: 30 * ffn }, (_, at) => (at % 3 === labels[Math.floor(at / ffn)]! ? -4 : 0.5));
  const columns = byLabel({ values, ffn }, labels, 3);
  assert.deepEqual(columns, [
    [0, 3, 6, 9],
    [1, 4, 7, 10],
    [2, 5, 8, 11],
  ]);
  assert.deepEqual(strongest({ values, ffn }, columns), labels);
  assert.deepEqual(byLabel({ values: values.fill(1), ffn }, labels, 3).flat().length, ffn);
  assert.deepEqual(inOrder(6, 2), [
    [0, 1, 2],
    [3, 4, 5],
  ]);
});

const wrong: Readonly<Record<string, readonly [Partial<SplitOptions>, string, RegExp]>> = {
  "experts that do not divide the columns": [{ experts: 7 }, "BadOption", /--experts is 7; .* divide the FFN's 96 columns/],
  "more experts for a token than there are": [{ topK: 9 }, "BadOption", /--top-k is 9; it must be from 1 to 8/],
  "more experts than a token may use, and no number": [
    { experts: 96, topK: undefined },
    "BadOption",
    /--top-k is missing, and all are 96; it must be from 1 to 64/,
  ],
  "another number of experts than domains": [
    { by: "domain", experts: 4, topK: 2 },
    "BadOption",
    /by domain it is the number of domains, 8/,
  ],
  "a form whose blocks are wider than a slice": [{ topK: 2, codecs: ["q4_0"] }, "UnsupportedShape", /q4_0 needs rows of a multiple of 32/],
  "a model with experts": [{ from: join(gguf, "../../tiny-f32") }, "UnknownArchitecture", /only LlamaForCausalLM can be split/],
};
for (const [sentence, [change, code, message]] of Object.entries(wrong))
  test(`splitting with ${sentence} is refused before anything is fitted`, async () => {
    const [before, said] = [await readdir(dir), [] as string[]];
    const splitting = split({ ...base, out: join(dir, "never"), ...change }, (line) => said.push(line));
    await assert.rejects(splitting, { name: AppError.name, code, message });
    assert.deepEqual([await readdir(dir), said], [before, []]);
  });
