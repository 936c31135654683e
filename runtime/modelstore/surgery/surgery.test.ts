// What surgery keeps, it keeps to the bit: units, rows of routers, and the texts of a model whose chosen experts all stay.
import assert from "node:assert/strict";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { AppError } from "../../../crds/common.ts";
import type { CodecName } from "../../../crds/names.ts";
import { loadModel } from "../../../test/kit/models/small-engine.ts";
import { createBackend } from "../../compute/index.ts";
import type { Segment } from "../../kernels/segment.ts";
import { programOf } from "../../models/index.ts";
import { openStore } from "../../weights/store-reader.ts";
import { importModel } from "../import.ts";
import { inspect } from "../inspect.ts";
import { type PruneOptions, prune } from "./prune.ts";

const dir = await mkdtemp(join(tmpdir(), "enodia-surgery-"));
after(() => rm(dir, { recursive: true }));
const golden = join(import.meta.dirname, "../../../test/golden");
const quiet = () => undefined;
const shell = { overwrite: true, cache: join(dir, "cache"), secrets: {} };
const refusal = (message: RegExp, code = "BadOption") => ({ name: AppError.name, code, message });

const backend = await createBackend("cpu", { threads: 1 });
after(() => backend.close());

async function storeOf(family: string, codecs: readonly CodecName[] = ["f32", "bf16"]): Promise<string> {
  const out = join(dir, family);
  await importModel({ ...shell, source: join(golden, "families", family), out, codecs }, quiet);
  return out;
}

/** Logits of every token, and the experts that each layer chose. */
async function run(folder: string, ids: readonly number[], codec: CodecName = "f32") {
  const store = await openStore(folder);
  const weights = async (segment: Segment) =>
    Object.fromEntries(await Promise.all(segment.weights.map(async ({ name }) => [name, await store.readDense(name)] as const)));
  const expert = async (layer: number, e: number) => store.decodeUnit(await store.readUnit(layer, e, codec), codec, layer, e);
  const model = await loadModel(backend, { program: programOf(store.config), weights, expert }, { context: 64 });
  const logits = (await model.forward(ids, 0)).slice();
  const routes = model.routes.map((layer) => [...new Set(layer)].sort((a, b) => a - b));
  await model.dispose();
  await store.close();
  return { logits, routes };
}

const ids = [7, 101, 30];
const all = [0, 1, 2, 3, 4, 5, 6, 7];

for (const family of ["mixtral", "gpt-oss", "rmoe"])
  test(`${family} without experts that a text never chose gives the logits of that text, to the bit`, async () => {
    const from = await storeOf(family);
    const want = await run(from, ids);
    const unused = want.routes.map((chosen) => all.filter((expert) => !chosen.includes(expert)));
    const count = Math.min(...unused.map(({ length }) => length));
    assert.ok(count > 1);
    const drop = unused.flatMap((experts, layer) => experts.slice(0, count).map((expert) => ({ layer, expert })));
    const { out, topK, kept } = await prune({ from, out: `${from}-pruned`, overwrite: false, drop }, quiet);
    for (const codec of ["f32", "bf16"] as const) {
      const [whole, part] = [await run(from, ids, codec), await run(out, ids, codec)];
      assert.deepEqual(part.logits, whole.logits);
      assert.deepEqual(
        part.routes.map((chosen, layer) => chosen.map((expert) => kept[layer]![expert])),
        whole.routes,
      );
    }
    const report = await inspect({ dir: out, verify: true, backend: "cpu" }, quiet);
    assert.deepEqual(report.kind === "store" && [report.experts, report.topK], [8 - count, topK]);
  });

test("--keep keeps the most used experts of each layer, the lower of two that are alike, and says what is lost", async () => {
  const from = await storeOf("mixtral", ["f32"]);
  const load = [
    [5, 0, 9, 5, 5, 1, 0, 0],
    [1, 1, 1, 1, 1, 1, 1, 1],
  ];
  const done = await prune({ from, out: join(dir, "kept"), overwrite: false, keep: 3, load }, quiet);
  assert.deepEqual(done.kept, [
    [0, 2, 3],
    [0, 1, 2],
  ]);
  assert.equal(done.lost, 11 / 33);
  assert.deepEqual(
    done.index.codecs.f32?.units.map((layer) => layer.map(({ sha256 }) => sha256)),
    await openStore(from).then(async (store) => {
      await store.close();
      return done.kept.map((layer, l) => layer.map((expert) => store.index.codecs.f32!.units[l]![expert]!.sha256));
    }),
  );
  const one = await prune({ from, out: join(dir, "one"), overwrite: false, keep: 1, load }, quiet);
  assert.deepEqual([one.topK, one.index.experts], [1, 1]);
});

const load = [all, all];
const wrong: Readonly<Record<string, readonly [Partial<PruneOptions>, RegExp, string?]>> = {
  "neither a number nor a list": [{}, /name --keep NUMBER with --load FILE, or --drop LIST/],
  "a number without a record": [{ keep: 4 }, /--load is missing: .*plan record/],
  "all experts": [{ keep: 8, load }, /--keep is 8; of 8 experts it must be from 1 to 7/],
  "a record of another model": [{ keep: 4, load: [all] }, /--load is of 1 layers of 8 experts, the model has 2 of 8/],
  "an expert that is not there": [{ drop: [{ expert: 8 }] }, /--drop: the model has no expert 8/],
  "unlike layers": [{ drop: [{ layer: 0, expert: 1 }] }, /--drop leaves from 7 to 8 experts in a layer; as many must stay/],
  "nothing left": [{ drop: all.map((expert) => ({ expert })) }, /one at least/],
  "more experts for a token": [{ drop: [{ expert: 1 }], topK: 3 }, /--top-k is 3; it must be from 1 to 2/],
  "a target that is there": [
    { drop: [{ expert: 1 }], out: join(dir, "mixtral-there") },
    /exists already; pass --overwrite/,
    "AlreadyExists",
  ],
  "the source as the target": [{ drop: [{ expert: 1 }], out: join(dir, "mixtral") }, /is the source/],
};
for (const [sentence, [change, message, code]] of Object.entries(wrong))
  test(`pruning with ${sentence} is refused, and nothing is written`, async () => {
    const from = await storeOf("mixtral", ["f32"]);
    if (code) await importModel({ ...shell, source: join(golden, "tiny-f32"), out: join(dir, "mixtral-there"), codecs: ["f32"] }, quiet);
    const before = await readdir(dir);
    await assert.rejects(prune({ from, out: join(dir, "never"), overwrite: false, ...change }, quiet), refusal(message, code));
    assert.deepEqual(await readdir(dir), before);
  });

test("gates that hand scores on from layer to layer are refused; groups of experts stay even", async () => {
  const plus = await storeOf("moe-plus-plus", ["f32"]);
  await assert.rejects(
    prune({ from: plus, out: join(dir, "never"), overwrite: false, drop: [{ expert: 1 }] }, quiet),
    refusal(/gate\.residual\.weight" hands scores/, "UnsupportedModel"),
  );
  const deepseek = await storeOf("deepseek-v3", ["f32"]);
  await assert.rejects(
    prune({ from: deepseek, out: join(dir, "never"), overwrite: false, drop: [{ expert: 1 }] }, quiet),
    refusal(/from 1 to 2 experts in a layer's groups/),
  );
});
