// `enodia model average`: the mean of a layer's experts becomes the FFN of a dense Llama; the inverse of upcycling.
import { resolve } from "node:path";
import { AppError } from "../../../crds/common.ts";
import type { CodecName } from "../../../crds/names.ts";
import { asF32 } from "../../kernels/weights.ts";
import { denseWeights } from "../../models/family.ts";
import { familyOf } from "../../models/index.ts";
import { ffnTensors, llamaProgram } from "../../models/llama.ts";
import { codecFor } from "../../weights/codecs/index.ts";
import { bytesOf } from "../../weights/floats.ts";
import { checkTarget } from "../../weights/model-folder.ts";
import { codecsOf, type ModelStore } from "../../weights/store.ts";
import { openStore } from "../../weights/store-reader.ts";
import { companionFiles, type Log } from "../companions.ts";
import { writeDenseFolder } from "../dense-folder.ts";
import type { Config } from "./derive.ts";

interface AverageOptions {
  readonly from: string;
  readonly out: string;
  readonly overwrite: boolean;
}

/** The layer that was asked for last stays in memory. Sums are f64, so that the mean of equal values is that value. */
function layerMeans(store: ModelStore, codec: CodecName, log: Log): (layer: number) => Promise<Readonly<Record<string, Float32Array>>> {
  let last: { readonly layer: number; readonly means: Readonly<Record<string, Float32Array>> } | undefined;
  return async (layer) => {
    if (last?.layer === layer) return last.means;
    const { experts } = store.layerShapes[layer] ?? { experts: 0 };
    const sums: Record<string, Float64Array> = {};
    for (let expert = 0; expert < experts; expert++) {
      const unit = store.decodeUnit(await store.readUnit(layer, expert, codec), codec, layer, expert);
      for (const [name, weight] of Object.entries(unit)) {
        const values = asF32(weight);
        sums[name] ??= new Float64Array(values.length);
        const sum = sums[name];
        for (let i = 0; i < values.length; i++) sum[i] = (sum[i] as number) + (values[i] as number);
      }
    }
    const means = Object.fromEntries(
      Object.entries(sums).map(([name, sum]) => [name, Float32Array.from(sum, (value) => value / experts)] as const),
    );
    last = { layer, means };
    log(`layer ${layer + 1}/${store.index.layers}: ${experts} experts averaged`);
    return means;
  };
}

export async function average(options: AverageOptions, log: Log): Promise<{ readonly out: string; readonly codec: CodecName }> {
  const target = { dir: resolve(options.out), overwrite: options.overwrite, sources: [options.from] };
  await checkTarget(target);
  const store = await openStore(options.from);
  try {
    const family = familyOf(store.config);
    if (family.averaged === undefined)
      throw new AppError(`${store.dir}: is ${store.index.architecture}; of MixtralForCausalLM alone one expert makes a dense Llama`, {
        code: "UnsupportedModel",
      });
    const config = family.averaged(store.config as Config);
    const program = llamaProgram(config);
    const [codec] = codecsOf(store.index).toSorted((a, b) => codecFor(a).loss - codecFor(b).loss) as [CodecName];
    const means = layerMeans(store, codec, log);
    const ffns = new Map(
      program.blocks.flatMap((_, layer) => Object.entries(ffnTensors(layer)).map(([matrix, name]) => [name, { layer, matrix }] as const)),
    );
    const valuesOf = async (name: string): Promise<Float32Array> => {
      const ffn = ffns.get(name);
      if (ffn === undefined) return asF32(await store.readDense(name));
      return (await means(ffn.layer))[ffn.matrix] as Float32Array;
    };
    const tensors = denseWeights(program).map(({ name, shape }) => {
      return { name, dtype: "F32" as const, shape, read: async () => bytesOf(await valuesOf(name)) };
    });
    await writeDenseFolder({ config, files: await companionFiles(store.dir), tensors }, target);
    return { out: target.dir, codec };
  } finally {
    await store.close();
  }
}
