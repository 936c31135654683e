// A store written again with its experts in other forms. All else is copied byte for byte.
import { join } from "node:path";
import { AppError } from "../../../crds/common.ts";
import type { GgmlWeight } from "../../kernels/weights.ts";
import { programOf } from "../../models/index.ts";
import { sha256Apart } from "../../weights/digest.ts";
import { openSafetensors, type SafetensorsFile } from "../../weights/safetensors.ts";
import type { TensorToWrite } from "../../weights/safetensors-writer.ts";
import type { ExpertIndex, LayerForms, ModelStore } from "../../weights/store.ts";
import { type WriteOptions, writeStore } from "../../weights/store-writer.ts";
import { companionFiles } from "../companions.ts";

export interface NewExperts {
  readonly forms: readonly LayerForms[];
  /** In those forms; called once per expert, layer by layer, one at a time. */
  expert(layer: number, expert: number): Promise<Readonly<Record<string, GgmlWeight | Float32Array>>>;
}

function denseTensors({ dir, index }: ModelStore, file: SafetensorsFile): TensorToWrite[] {
  return [...file.tensors].map(([name, { dtype, shape }]) => ({
    ...{ name, dtype: dtype as TensorToWrite["dtype"], shape },
    async read() {
      const bytes = await file.readRaw(name);
      if ((await sha256Apart(bytes)) === index.dense[name]) return bytes;
      throw new AppError(`${dir}: dense tensor "${name}" does not match its hash; import the model again`, { code: "CorruptShard" });
    },
  }));
}

/** Codec `source` of the new store; the target may not be the store itself. */
export async function rewriteStore(store: ModelStore, { forms, expert }: NewExperts, options: WriteOptions): Promise<ExpertIndex> {
  const { architecture, denseForms } = store.index;
  const file = await openSafetensors(join(store.dir, "dense.safetensors"));
  try {
    const { hidden } = programOf(store.config);
    const spec = {
      ...{ config: store.config as Readonly<Record<string, unknown>>, architecture, layers: store.layerShapes, hidden },
      ...{ codecs: ["source"] as const, dense: denseTensors(store, file), forms, expert, files: await companionFiles(store.dir) },
    };
    return await writeStore({ ...spec, ...(denseForms === undefined ? {} : { denseForms }) }, options);
  } finally {
    await file.close();
  }
}
