// Figures of papers on the weights themselves, by the product's commands on the checkpoints of its tests.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Backend } from "../../../runtime/compute/backend.ts";
import { relativeError } from "../../../runtime/compute/op-self-test.ts";
import type { GgmlForm } from "../../../runtime/kernels/ggml/index.ts";
import type { Segment } from "../../../runtime/kernels/segment.ts";
import { programOf } from "../../../runtime/models/index.ts";
import { importModel } from "../../../runtime/modelstore/import.ts";
import { quantize } from "../../../runtime/modelstore/quantize/quantize.ts";
import { average } from "../../../runtime/modelstore/surgery/average.ts";
import { merge } from "../../../runtime/modelstore/surgery/merge.ts";
import { prune } from "../../../runtime/modelstore/surgery/prune.ts";
import { split } from "../../../runtime/modelstore/surgery/split.ts";
import { upcycle } from "../../../runtime/modelstore/upcycle/upcycle.ts";
import { sum } from "../../../runtime/placement/imbalance.ts";
import { openCheckpoint } from "../../../runtime/weights/checkpoint.ts";
import { openStore } from "../../../runtime/weights/store-reader.ts";
import { loadModel } from "../../kit/models/small-engine.ts";

const golden = join(import.meta.dirname, "../../golden");
const quiet = (): void => undefined;
const words = [7, 101, 30, 5, 200, 31];

export class SmallStores {
  readonly #dir: string;
  readonly #backend: Backend;
  #made: Promise<{ readonly moe: string; readonly dense: string }> | undefined;

  /** In that folder. */
  constructor(dir: string, backend: Backend) {
    this.#dir = dir;
    this.#backend = backend;
  }

  #sources() {
    this.#made ??= (async () => {
      const shell = { overwrite: true, cache: join(this.#dir, "cache"), secrets: {} };
      const [moe, dense] = [join(this.#dir, "moe"), join(this.#dir, "dense")];
      await importModel({ ...shell, source: join(golden, "tiny-f32"), out: moe, codecs: ["f32"] }, quiet);
      await importModel({ ...shell, source: join(golden, "tiny-gguf/tiny-llama.gguf"), out: dense, folder: true }, quiet);
      await importModel({ ...shell, source: dense, out: `${dense}-store`, codecs: ["f32"] }, quiet);
      return { moe, dense };
    })();
    return this.#made;
  }

  async #logits(dir: string): Promise<Float32Array> {
    const store = await openStore(dir);
    const weights = async (segment: Segment) =>
      Object.fromEntries(await Promise.all(segment.weights.map(async ({ name }) => [name, await store.readDense(name)] as const)));
    const expert = async (layer: number, e: number) => store.decodeUnit(await store.readUnit(layer, e, "f32"), "f32", layer, e);
    const model = await loadModel(this.#backend, { program: programOf(store.config), weights, expert }, { context: 64 });
    const logits = (await model.forward(words, 0)).slice();
    await model.dispose();
    await store.close();
    return logits;
  }

  /** How far logits are from the dense model's whose FFN was cut into 8 experts, of which a token uses so many (UoE). */
  async splitError(topK: number): Promise<number> {
    const { dense } = await this.#sources();
    const options = { from: dense, overwrite: true, experts: 8, topK, by: "columns", codecs: ["f32"], threads: 1 } as const;
    const { out } = await split({ ...options, out: join(this.#dir, "split") }, quiet);
    return relativeError(await this.#logits(out), await this.#logits(`${dense}-store`));
  }

  /** How far the mean of experts is from the FFN that they were made of with such noise (SS-MoE). */
  async averageError(noise: number): Promise<number> {
    const { dense: from } = await this.#sources();
    const drawn = { from, experts: 3, topK: 2, noise, seed: 1, codecs: ["f32"], overwrite: true, threads: 1 } as const;
    const { out: store } = await upcycle({ ...drawn, out: join(this.#dir, "upcycled") }, quiet);
    const { out } = await average({ from: store, out: join(this.#dir, "averaged"), overwrite: true }, quiet);
    const name = "model.layers.0.mlp.down_proj.weight";
    const [mean, was] = await Promise.all(
      [out, from].map(async (folder) => {
        const checkpoint = await openCheckpoint(folder);
        const values = await checkpoint.read(name);
        await checkpoint.close();
        return values;
      }),
    );
    return relativeError(mean as Float32Array, was as Float32Array);
  }

  /** True if a model merged with itself and without the second half is the model, digest and all (M3). */
  async mergesBack(): Promise<boolean> {
    const { moe } = await this.#sources();
    const [out, again] = [join(this.#dir, "merged"), join(this.#dir, "again")];
    await merge({ first: moe, second: moe, out, overwrite: true, dense: "first" }, quiet);
    const drop = [4, 5, 6, 7].map((expert) => ({ expert }));
    const { index } = await prune({ from: out, out: again, overwrite: true, drop }, quiet);
    const { modelDigest } = JSON.parse(await readFile(join(moe, "expert-index.json"), "utf8")) as { readonly modelDigest: string };
    return index.modelDigest === modelDigest;
  }

  /** The error of experts of which half have q8_0 and half q4_0, chosen by what they lose, to half of each by their number (MC-MoE). */
  async quantizeError(): Promise<number> {
    const { moe: dir } = await this.#sources();
    const costs = async (types: readonly GgmlForm[], bits: number): Promise<number[]> => {
      const options = { dir, out: join(this.#dir, "quantized"), bits, types, tokens: 2000, threads: 1, overwrite: true };
      const { experts } = await quantize(options, quiet);
      return experts.map(({ share, gateShare, error }) => share * gateShare ** 1.5 * error);
    };
    const [coarse, fine, chosen] = [await costs(["q4_0"], 4.5), await costs(["q8_0"], 8.5), await costs(["q4_0", "q8_0"], 6.5)];
    const byNumber = coarse.map((cost, at) => (at % 2 === 0 ? cost : (fine[at] as number)));
    return sum(chosen) / sum(byNumber);
  }
}
