// Published layouts of every family, made small: their import gives the logits and the text of the same weights as a Hugging Face folder;
// matrices stay in the types of the file, in the store and on the device; and memory is what is stored.
import assert from "node:assert/strict";
import { copyFile, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import type { CodecName } from "../../../crds/names.ts";
import { published, writePublished } from "../../../test/kit/models/published-gguf.ts";
import { loadModel, weightsIn } from "../../../test/kit/models/small-engine.ts";
import type { Backend } from "../../compute/backend.ts";
import { createBackend } from "../../compute/index.ts";
import { relativeError } from "../../compute/op-self-test.ts";
import { createEngine } from "../../engine/engine.ts";
import { openModel, workBytesOf } from "../../engine/thread/open.ts";
import { loadTokenizer } from "../../text/tokenizer.ts";
import { valuesOf } from "../../weights/codecs/codec.ts";
import type { ModelStore } from "../../weights/store.ts";
import { openStore } from "../../weights/store-reader.ts";
import { storedBytes } from "../../weights/stored.ts";
import { importModel } from "../import.ts";

const dir = await mkdtemp(join(tmpdir(), "enodia-published-"));
after(() => rm(dir, { recursive: true }));
const tiny = join(import.meta.dirname, "../../../test/golden/tiny-f32");
const importing = (source: string, out: string, codecs?: readonly CodecName[]) =>
  importModel(
    { source, out, codecs, overwrite: false, cache: join(dir, "cache"), secrets: { HF_ENDPOINT: "http://127.0.0.1:9" } },
    () => undefined,
  );

const reference = await createBackend("reference", { threads: 1 });
const device = await createBackend("cpu", { threads: 1, denseBits: 16 });
after(() => device.close());

const ids = Array.from({ length: 12 }, (_, i) => (i * 37 + 11) % 320);

async function logitsOf(backend: Backend, store: ModelStore, codec: CodecName): Promise<Float32Array> {
  const model = await loadModel(backend, weightsIn(store, codec), { context: ids.length });
  const logits = await model.forward(ids, 0);
  await model.dispose();
  return logits;
}

const textTokens = 16;

/** The greedy text of a store, from its tokenizer to its tokens, as the engine writes it with the reference. */
async function textOf({ dir: storeDir, layerShapes, readUnit }: ModelStore, codec: CodecName): Promise<string> {
  const onDemand = { run: () => Promise.reject(new Error("every expert is here")) };
  const engine = await createEngine({ storeDir, backend: "reference", codec, kvPoolBytes: 1 << 22, maxContext: 64, onDemand });
  try {
    for (const [layer, { experts }] of layerShapes.entries())
      for (let e = 0; e < experts; e++) await engine.loadExpert(layer, e, await readUnit(layer, e, codec));
    const tokenizer = await loadTokenizer(storeDir);
    const sampling = { temperature: 0, topP: 1, topK: 0, seed: 1n };
    const request = { prompt: tokenizer.encode("The experts"), maxTokens: textTokens, sampling, eos: [] };
    const tokens: number[] = [];
    for await (const event of engine.generate(request)) if (event.type === "token") tokens.push(event.id);
    assert.equal(tokens.length, textTokens);
    return tokenizer.decode(tokens);
  } finally {
    await engine.close();
  }
}

const row = (logits: Float32Array, i: number) => logits.subarray((i * logits.length) / ids.length, ((i + 1) * logits.length) / ids.length);
/** On a device rows are rounded before blocks multiply them, to eight bits in groups of 32 or 256: the error of half of the tokens is
 *  less. That of others is more, where another expert was near. */
const roundingMax = 0.05;

for (const [name, make] of Object.entries(published))
  test(`${name}: logits and text are those of its Hugging Face folder, from blocks that stay as they are`, async () => {
    const folder = await mkdtemp(join(dir, "model-"));
    const model = make();
    await writePublished(model, folder);
    for (const file of ["tokenizer.json", "tokenizer_config.json"]) await copyFile(join(tiny, file), join(folder, "hf", file));
    await importing(join(folder, "model.gguf"), join(folder, "gguf-store"));
    await importing(join(folder, "hf"), join(folder, "hf-store"), ["f32"]);
    const [from, same] = [await openStore(join(folder, "gguf-store")), await openStore(join(folder, "hf-store"))];
    after(() => Promise.all([from.close(), same.close()]));
    const want = await logitsOf(reference, same, "f32");
    assert.deepEqual(await logitsOf(reference, from, "source"), want);
    assert.equal(await textOf(from, "source"), await textOf(same, "f32"));
    const got = await logitsOf(device, from, "source");
    const rows = ids.map((_, i) => relativeError(row(got, i), row(want, i))).sort((a, b) => a - b);
    assert.ok(rows[rows.length >> 1]! < roundingMax, `errors ${rows}`);

    const stored = from.index.codecs.source!.units.map((layer) => layer[0]?.bytes ?? 0);
    const options = { storeDir: from.dir, backend: "cpu", codec: "source", kvPoolBytes: 1 << 22, maxContext: 64, threads: 1 } as const;
    const opened = await openModel(options);
    try {
      const resident = stored.map(
        (bytes, layer) => bytes && (opened.info.unlikeResidentBytes?.[layer]?.[0] ?? opened.info.expertResidentBytes),
      );
      for (const [layer, bytes] of stored.entries())
        assert.ok(Math.abs(resident[layer]! - bytes) <= 0.03 * bytes, `layer ${layer}: ${resident[layer]} resident, ${bytes} stored`);
      const dense = model.parts
        .filter(({ name }) => !name.includes("_exps"))
        .reduce((sum, { shape, form }) => sum + storedBytes(form, valuesOf(shape)), 0);
      const { numerics } = opened.info;
      const denseBytes = opened.info.denseBytes - workBytesOf(opened.program, { backend: opened.backend, options }, opened.kv);
      // Memory for tiles, on processors that have them, holds sums beside blocks; the heads of a latent become f32.
      const [plain, tiles] = name.includes("apart") ? [1.4, 2.1] : [1.03, 1.15];
      const bound = numerics.includes("amx") ? tiles : plain;
      assert.ok(denseBytes <= bound * dense, `${denseBytes} resident, ${dense} stored`);
    } finally {
      await opened.close();
    }
  });
