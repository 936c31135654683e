// Experts of a small model in types of their own: what is judged are the rows that the model itself sends to each expert, errors are those
// of gated outputs, and the store that comes out has the types of the report within the bits that were asked.
import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { AppError } from "../../../crds/common.ts";
import { loadModel } from "../../../test/kit/models/small-engine.ts";
import { createBackend } from "../../compute/index.ts";
import { createRounder } from "../../compute/rounder.ts";
import { gaussian } from "../../kernels/random.ts";
import type { Segment } from "../../kernels/segment.ts";
import { asF32, type Weights } from "../../kernels/weights.ts";
import { programOf } from "../../models/index.ts";
import { gatedExpert } from "../../models/moe.ts";
import type { ModelStore } from "../../weights/store.ts";
import { openStore } from "../../weights/store-reader.ts";
import { importMoe } from "../import-moe.ts";
import { inspect } from "../inspect.ts";
import { calibrate, type ExpertUse, outputOf } from "./calibrate.ts";
import { ExpertRounding, measure } from "./measure.ts";
import { partOf } from "./part.ts";
import { quantize } from "./quantize.ts";
import { storedTypeFor, waysToStore } from "./types.ts";

const quiet = () => undefined;
const dir = await mkdtemp(join(tmpdir(), "enodia-quantize-"));
const from = join(dir, "tiny");
const types = ["q4_0", "q5_0", "q8_0"] as const;
const asked = { dir: from, bits: 5.6, types, tokens: 2000, threads: 2, overwrite: false };
let store: ModelStore;

before(async () => {
  await importMoe(
    { from: join(import.meta.dirname, "../../../test/golden/tiny-f32"), out: from, codecs: ["q4_0", "f32"], overwrite: false },
    quiet,
  );
  store = await openStore(from);
});
after(async () => {
  await store.close();
  await rm(dir, { recursive: true });
});

const partsOf = (backend: Awaited<ReturnType<typeof createBackend>>) => ({
  ...{ backend, program: programOf(store.config), dense: store.readDense },
  expert: async (layer: number, expert: number) => store.decodeUnit(await store.readUnit(layer, expert, "f32"), "f32", layer, expert),
});

test("experts are judged on the rows that the model sends them, sequence by sequence", async () => {
  const backend = await createBackend("cpu", { threads: 1 });
  const parts = partsOf(backend);
  const sequences = [[5, 9, 17, 33, 200], [1, 2, 3], [310]];
  const seen = [new Array<number>(4).fill(0), new Array<number>(4).fill(0)];
  await calibrate(parts, sequences, async ({ layer, expert, rows, x, y, gates }) => {
    seen[layer]![expert]! += rows;
    assert.deepEqual([x.length, y.length, gates.length], [64 * rows, 64 * rows, rows]);
  });
  const want = [new Array<number>(4).fill(0), new Array<number>(4).fill(0)];
  const weights = async (segment: Segment): Promise<Weights> =>
    Object.fromEntries(await Promise.all(segment.weights.map(async ({ name }) => [name, await store.readDense(name)] as const)));
  const loaded = await loadModel(backend, { program: parts.program, weights, expert: parts.expert }, { context: 16 });
  for (const ids of sequences) {
    await loaded.forward(ids, 0);
    for (const [layer, route] of loaded.routes.entries()) for (const id of route) want[layer]![id]! += 1;
  }
  assert.deepEqual(seen, want);
  await loaded.dispose();
  await backend.close();
});

test("an expert's error is the norm of what its gated outputs are off, and a sample stands for many rows", async () => {
  const backend = await createBackend("cpu", { threads: 1 });
  const rounding = new ExpertRounding(createRounder(), 3);
  const ways = waysToStore(types, store.layerShapes[1]!.matrices);
  const { expert: segment } = programOf(store.config).layers[1] as Extract<ReturnType<typeof programOf>["layers"][number], { kind: "moe" }>;
  const weights = await partsOf(backend).expert(1, 2);
  for (const rows of [20, 3000]) {
    const [x, gates] = [gaussian(1, rows * 64, 1), gaussian(2, rows, 0.3).map(Math.abs)];
    const y = await outputOf(backend, { segment, weights, layer: 1 }, x);
    const use: ExpertUse = { layer: 1, expert: 2, segment, weights, rows, x, gates, y };
    const measured = await measure(use, ways, { backend, rounding });
    assert.equal(measured.importance.w1, measured.importance.w3, "one array for matrices of one input");
    for (const [way, coarse] of (await rounding.in(ways, weights, measured.importance)).entries()) {
      const got = await outputOf(backend, { segment, weights: coarse, layer: 1 }, x);
      const off = Math.sqrt(got.reduce((sum, value, at) => sum + (gates[Math.floor(at / 64)]! * (value - y[at]!)) ** 2, 0));
      assert.ok(Math.abs(measured.errors[way]! / off - 1) < (rows === 20 ? 1e-5 : 0.1), `${measured.errors[way]} for ${off}`);
    }
    assert.ok(measured.errors[0]! > measured.errors[1]! && measured.errors[1]! > measured.errors[2]!, "more bits, less error");
  }
  const idle: ExpertUse = {
    ...{ layer: 1, expert: 2, segment, weights, rows: 0 },
    x: new Float32Array(),
    gates: new Float32Array(),
    y: new Float32Array(),
  };
  assert.deepEqual((await measure(idle, ways, { backend, rounding })).errors, [0, 0, 0]);
  await backend.close();
});

test("a part of an expert's units stands for all of them, in floats and in blocks", async () => {
  const backend = await createBackend("cpu", { threads: 2 });
  const rounding = new ExpertRounding(createRounder(), 2);
  const [hidden, ffn, rows] = [256, 1024, 64];
  const segment = gatedExpert(hidden, ffn);
  const plain: Weights = Object.fromEntries(
    segment.weights.map(({ name, shape }, i) => [name, { form: "f32", shape, data: gaussian(10 + i, hidden * ffn, 0.03) }]),
  );
  const [x, gates] = [gaussian(4, rows * hidden, 1), gaussian(5, rows, 0.3).map(Math.abs)];
  const all = waysToStore(["q2_K", "q4_K", "q8_0"], segment.weights);
  const [q2, , q8] = (await rounding.in(all, plain, {})) as [Weights, Weights, Weights];
  for (const [weights, ways] of [
    [plain, all],
    [q8, all.slice(0, 2)],
  ] as const) {
    const y = await outputOf(backend, { segment, weights, layer: 0 }, x);
    const use: ExpertUse = { layer: 0, expert: 0, segment, weights, rows, x, gates, y };
    const { errors, importance } = await measure(use, ways, { backend, rounding });
    for (const [way, coarse] of (await rounding.in(ways, weights, importance)).entries()) {
      const got = await outputOf(backend, { segment, weights: coarse, layer: 0 }, x);
      const off = Math.sqrt(got.reduce((sum, value, at) => sum + (gates[Math.floor(at / hidden)]! * (value - y[at]!)) ** 2, 0));
      assert.ok(Math.abs(errors[way]! / off - 1) < 0.1, `${ways[way]!.types[0]}: ${errors[way]} for ${off}`);
    }
  }
  const ones = (count: number): Float32Array => new Float32Array(count).fill(1);
  const importance = { w1: ones(hidden), w2: ones(ffn).fill(2, 512, 768), w3: ones(hidden) };
  const part = partOf({ segment, weights: q2 }, importance, () => ones(ffn).fill(9, 512, 768))!;
  assert.ok(part.segment.weights.every(({ shape }) => shape.join() === "256,256"));
  const [whole, own] = [asF32(q2.w2!), asF32(part.weights.w2!)];
  assert.deepEqual(own.subarray(256, 512), whole.subarray(ffn + 512, ffn + 768), "row 1 of the units that say the most");
  assert.deepEqual(asF32(part.weights.w1!), asF32(q2.w1!).subarray(512 * hidden, 768 * hidden));
  assert.deepEqual([part.importance.w1, part.importance.w2], [importance.w1, ones(256).fill(2)]);
  assert.ok(Math.abs(part.scale - Math.sqrt(12 / 9)) < 0.05);
  assert.equal(
    partOf({ segment: gatedExpert(64, 256), weights: {} }, {}, () => ones(0)),
    undefined,
    "few units",
  );
  await backend.close();
});

test("columns whose inputs matter are rounded better than without their importance", async () => {
  const [rounder, shape, data] = [createRounder(), [32, 256], gaussian(3, 32 * 256, 0.02)];
  const importance = Float32Array.from({ length: 256 }, (_, column) => (column % 8 === 0 ? 100 : 1));
  const errorOf = async (given?: Float32Array): Promise<number> => {
    const got = asF32({ form: "q2_K", shape, data: await rounder.round("q2_K", { shape, data }, given) });
    return got.reduce((sum, value, at) => sum + importance[at % 256]! * (value - data[at]!) ** 2, 0);
  };
  assert.ok((await errorOf(importance)) < 0.9 * (await errorOf()));
  await assert.rejects(rounder.round("q4_0", { shape, data: data.map((value, at) => (at === 7 ? Number.NaN : value)) }), {
    code: "UnusableWeight",
  });
});

test("a type whose blocks are longer than rows allow is stood in for by one of shorter blocks and no fewer bits", () => {
  const of = (type: Parameters<typeof storedTypeFor>[0], columns: number) => storedTypeFor(type, { name: "w", shape: [8, columns] });
  assert.deepEqual(
    [of("q2_K", 512), of("q2_K", 576), of("q4_K", 576), of("q5_K", 576), of("q6_K", 576), of("q8_0", 576), of("qmoe", 576)],
    ["q2_K", "q4_0", "q4_0", "q5_0", "q8_0", "q8_0", "q4_0"],
  );
  assert.equal(storedTypeFor("q2_K", { name: "b", shape: [8] }), "f32");
  assert.throws(() => of("q2_K", 40), { code: "UnsupportedShape", message: /matrix w has rows of 40 values/ });
});

test("the store has the types of the report within the bits of each layer, and the same bytes each time", async () => {
  const reports = await Promise.all(["a", "b"].map((name) => quantize({ ...asked, out: join(dir, name) }, quiet)));
  const [report, again] = reports as [(typeof reports)[number], (typeof reports)[number]];
  assert.equal(report.modelDigest, again.modelDigest);
  assert.equal(report.from, "f32");
  assert.equal(report.tokens, asked.tokens);
  const found = await openStore(report.out);
  for (const layer of [0, 1]) {
    const own = report.experts.filter((each) => each.layer === layer);
    assert.ok(own.reduce((sum, { bits }) => sum + bits, 0) / own.length <= 5.6);
    assert.ok(Math.abs(own.reduce((sum, { share }) => sum + share, 0) - 1) < 1e-9);
    for (const { expert, types: chosen, bytes, error } of own) {
      assert.equal(found.index.codecs.source?.units[layer]?.[expert]?.bytes, bytes);
      assert.deepEqual(Object.values(found.unitForms("source", layer, expert)), chosen);
      assert.ok(error > 0 && error < 0.3);
    }
  }
  assert.deepEqual(found.index.dense, store.index.dense);
  await found.close();
  const inspected = await inspect({ dir: report.out, verify: true }, quiet);
  assert.ok(inspected.kind === "store" && inspected.verified?.units === 8);
});

test("a budget of tokens is kept to the token", async () => {
  const { tokens } = await quantize({ ...asked, out: join(dir, "few"), tokens: 1 }, quiet);
  assert.equal(tokens, 1);
});

test("what cannot be is refused before anything is judged", async () => {
  const refused = async (options: Partial<Parameters<typeof quantize>[0]>, code: string, message: RegExp) =>
    assert.rejects(quantize({ ...asked, out: join(dir, "never"), ...options }, quiet), { name: AppError.name, code, message });
  await refused(
    { bits: 4.4 },
    "BadOption",
    /--bits 4.4: experts of layer 0 take 4.5 bits a value at least, as q4_0, q4_0, q4_0, since their rows have 64 and 96 values/,
  );
  await refused({ out: from }, "BadOption", /is the source/);
  await refused({ text: join(dir, "none") }, "BadOption", /--text: ENOENT/);
  await writeFile(join(dir, "empty.txt"), "");
  await refused({ text: join(dir, "empty.txt") }, "BadOption", /is empty/);
  await writeFile(join(dir, "other"), "kept");
  await refused({ out: join(dir, "other") }, "AlreadyExists", /--overwrite/);
  assert.equal(await readFile(join(dir, "other"), "utf8"), "kept");
});
