// A store is the same bytes however it is encoded: in the calling thread or on several, one expert after another or side by side.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { AppError } from "../../crds/common.ts";
import { gaussian } from "../kernels/random.ts";
import { codecFor } from "./codecs/index.ts";
import { layerForms } from "./store.ts";
import { openStore } from "./store-reader.ts";
import { type StoreSpec, writeStore } from "./store-writer.ts";

const dir = await mkdtemp(join(tmpdir(), "enodia-writer-"));
after(() => rm(dir, { recursive: true }));

const matrices = [
  { name: "w1", shape: [8, 64] },
  { name: "w2", shape: [64, 32] },
];
const layers = [3, 0, 5].map((experts) => ({ experts, topK: Math.min(experts, 1), matrices: experts > 0 ? matrices : [] }));
const random = (layer: number, expert: number, matrix: number, size: number) => gaussian(1000 * layer + 10 * expert + matrix, size, 0.02);
const bf16 = codecFor("bf16");

/** The first matrix is bf16, the second f32. */
const spec: StoreSpec = {
  ...{ config: { a: 1 }, architecture: "MixtralForCausalLM", layers, hidden: 64, dense: [], files: new Map() },
  codecs: ["source", "q4_0", "f32"],
  forms: layers.map(({ experts }) => (experts > 0 ? ["bf16", "f32"] : [])),
  async expert(layer, expert) {
    const [one, other] = [random(layer, expert, 1, 8 * 64), random(layer, expert, 2, 64 * 32)];
    const shape = [8, 64];
    return { w1: { form: "bf16", shape, data: bf16.encode({ w1: one }, [{ name: "w1", shape }]) }, w2: other };
  },
};

async function hashOf(folder: string): Promise<string> {
  const hash = createHash("sha256");
  for (const name of (await readdir(folder)).sort()) hash.update(name).update(await readFile(join(folder, name)));
  return hash.digest("hex");
}

/** As stores were before several experts were encoded at once. */
const known = "70d8437ca0f345e4c07ea92975e9368a7c4fa908a2df1f09a8cb767ddc085099";
test("experts of one layer may be stored in unlike forms, which the index tells one by one, and only where they differ", async () => {
  const formOf = (expert: number) => (expert === 1 ? (["bf16", "f32"] as const) : (["f32", "bf16"] as const));
  const forms = layers.map(({ experts }, layer) =>
    layerForms(Array.from({ length: experts }, (_, expert) => formOf(layer === 2 ? 0 : expert))),
  );
  assert.deepEqual(forms, [
    [
      ["f32", "bf16"],
      ["bf16", "f32"],
      ["f32", "bf16"],
    ],
    [],
    ["f32", "bf16"],
  ]);
  const expert: StoreSpec["expert"] = async (layer, expert) => {
    const own = { w1: random(layer, expert, 1, 8 * 64), w2: random(layer, expert, 2, 64 * 32) };
    const coarse = matrices.flatMap(({ name, shape }, i) => {
      if (formOf(layer === 2 ? 0 : expert)[i] === "f32") return [];
      return [[name, { form: "bf16" as const, shape, data: bf16.encode({ [name]: own[name as "w1"] }, [{ name, shape }]) }] as const];
    });
    return { ...own, ...Object.fromEntries(coarse) };
  };
  const index = await writeStore(
    { ...spec, codecs: ["source"], forms, expert },
    { dir: join(dir, "unlike"), overwrite: false, sources: [] },
  );
  assert.deepEqual(index.codecs.source?.forms, forms);
  assert.deepEqual(
    index.codecs.source?.units.map((layer) => layer.map(({ bytes }) => bytes)),
    [[6144, 9216, 6144], [], [6144, 6144, 6144, 6144, 6144]],
  );
  const store = await openStore(join(dir, "unlike"));
  for (const [layer, { experts }] of layers.entries())
    for (let e = 0; e < experts; e++) {
      const { w1, w2 } = store.decodeUnit(await store.readUnit(layer, e, "source"), "source", layer, e);
      assert.deepEqual([w1?.form, w2?.form], [...formOf(layer === 2 ? 0 : e)]);
      assert.deepEqual(Object.values(store.unitForms("source", layer, e)), [w1?.form, w2?.form]);
    }
  await store.close();
  const path = join(dir, "unlike", "expert-index.json");
  const json = await readFile(path, "utf8");
  const wrong: readonly (readonly [(forms: any[]) => void, RegExp])[] = [
    [(forms) => forms[0].pop(), /lists the forms of 2 experts of layer 0, not of 3/],
    [(forms) => forms[0][1].pop(), /names the forms of 1 matrices of expert 1 of layer 0, not of 2/],
    [(forms) => forms[0].reverse().push(forms[0].shift()), /a source unit has \d+ bytes, not \d+/],
    [(forms) => (forms[1] = [["f32", "f32"]]), /lists the forms of 1 experts of layer 1, not of 0/],
    [(forms) => (forms[0][0][0] = "int4"), /field codecs\.source\.forms\.0/],
  ];
  for (const [change, message] of wrong) {
    const changed = JSON.parse(json);
    change(changed.codecs.source.forms);
    await writeFile(path, JSON.stringify(changed));
    await assert.rejects(openStore(join(dir, "unlike")), { message });
  }
});

const plans = [undefined, { threads: 0, atOnce: 1 }, { threads: 1, atOnce: 1 }, { threads: 3, atOnce: 4 }];

for (const encoding of plans) {
  test(`a store has the bytes it always had, ${JSON.stringify(encoding) ?? "by default"}`, async () => {
    const out = join(dir, `store-${plans.indexOf(encoding)}`);
    const seen: number[] = [];
    const onProgress = ({ units }: { units: number }) => void seen.push(units);
    await writeStore(spec, { dir: out, overwrite: false, sources: [], onProgress, ...(encoding && { encoding }) });
    assert.equal(await hashOf(out), known);
    assert.deepEqual(seen, [1, 2, 3, 4, 5, 6, 7, 8]);
  });

  test(`an expert that cannot be encoded ends the import by its own error, ${JSON.stringify(encoding) ?? "by default"}`, async () => {
    const expert: StoreSpec["expert"] = async (layer, expert) => {
      const good = await spec.expert(layer, expert);
      return layer === 2 && expert === 1 ? { ...good, w2: new Float32Array(64 * 32).fill(Number.NaN) } : good;
    };
    const target = { dir: join(dir, "never"), overwrite: false, sources: [] };
    const before = await readdir(dir);
    await assert.rejects(writeStore({ ...spec, expert }, { ...target, ...(encoding && { encoding }) }), {
      name: AppError.name,
      code: "UnusableWeight",
      message: /matrix w2 has NaN at \[0, 0\]/,
    });
    assert.deepEqual(await readdir(dir), before);
  });
}
