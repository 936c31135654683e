// Imports a model of a served family to a store, one expert at a time.
import type { CodecName } from "../../crds/names.ts";
import { expertGrid } from "../kernels/check-program.ts";
import { familyOf } from "../models/index.ts";
import { describeGrid } from "../placement/grid.ts";
import { openCheckpoint } from "../weights/checkpoint.ts";
import type { ExpertMatrices } from "../weights/codecs/codec.ts";
import { codecFor } from "../weights/codecs/index.ts";
import { layerShapes } from "../weights/layer-shapes.ts";
import { checkTarget } from "../weights/model-folder.ts";
import type { ExpertIndex } from "../weights/store.ts";
import { readConfig } from "../weights/store-reader.ts";
import { writeStore } from "../weights/store-writer.ts";
import type { Checkpoint } from "../weights/tensor-view.ts";
import { checkTiedHead, refuseQuantization, refuseUnknown } from "./check-tensors.ts";
import { companionFiles, type Log } from "./companions.ts";
import { Progress } from "./import-progress.ts";
import { architectureIn, inFolder, unquantized } from "./model-config.ts";
import { expertForms, knownTensors, type ModelParts, planDense, unitsBytes } from "./plan-store.ts";

interface ImportTarget {
  readonly out: string;
  readonly codecs: readonly CodecName[];
  readonly overwrite: boolean;
}

interface ImportMoe extends ImportTarget {
  /** A folder in Hugging Face layout, with safetensors. */
  readonly from: string;
}

interface StoreModel extends ImportTarget {
  /** Source files, which are never overwritten. */
  readonly sources: readonly string[];
  readonly config: Readonly<Record<string, unknown>>;
  readonly checkpoint: Checkpoint;
  /** Additional files: name in the store to path. */
  readonly files: ReadonlyMap<string, string>;
}

function expertReader({ checkpoint, family, shapes }: ModelParts) {
  return async (layer: number, expert: number): Promise<ExpertMatrices> => {
    const tensors = family.expertTensors(layer, expert);
    const read: Record<string, ExpertMatrices[string]> = {};
    for (const { name } of shapes[layer]?.matrices ?? []) read[name] = await checkpoint.readStored(tensors[name] ?? name);
    return read;
  };
}

/** Throws unless the checkpoint has exactly these parts. */
async function partsIn({ config, checkpoint }: StoreModel, architecture: string): Promise<ModelParts> {
  const where = checkpoint.dir;
  const family = inFolder(where, () => familyOf(config));
  const program = inFolder(where, () => family.program(config));
  const parts = { checkpoint, family, program, shapes: layerShapes(program) };
  const known = knownTensors(parts);
  const needless = family.needless?.(config) ?? [];
  const names = checkpoint.names.filter((name) => !needless.some((start) => name.startsWith(start)));
  await refuseUnknown(checkpoint, { names, known, architecture });
  refuseQuantization(checkpoint, config);
  await checkTiedHead(checkpoint, known);
  return parts;
}

/** Leaves the checkpoint open. */
export async function storeModel(model: StoreModel, log: Log): Promise<ExpertIndex> {
  const { checkpoint, codecs, files } = model;
  const architecture = architectureIn(checkpoint.dir, model.config);
  const parts = await partsIn(model, architecture);
  const { program, shapes } = parts;
  const forms = codecs.some((codec) => codecFor(codec).asGiven) ? expertForms(parts) : [];
  const unitBytes = codecs.reduce((sum, codec) => sum + unitsBytes(parts, codec, forms), 0);
  const dense = planDense(parts, (bytes, name) => progress.add(bytes, name));
  const progress = new Progress(log, dense.bytes + unitBytes);
  log(`importing ${architecture}: ${describeGrid(expertGrid(program))}, codecs ${codecs.join(", ")}`);
  let seen = 0;
  return writeStore(
    {
      config: unquantized(model.config),
      architecture,
      layers: shapes,
      hidden: program.hidden,
      codecs,
      dense: dense.tensors,
      denseForms: dense.forms,
      forms,
      expert: expertReader(parts),
      files,
    },
    {
      dir: model.out,
      overwrite: model.overwrite,
      sources: model.sources,
      onProgress: ({ units, of, bytes }) => {
        progress.add(bytes - seen, `experts ${units}/${of}`);
        seen = bytes;
      },
    },
  );
}

export async function importMoe(options: ImportMoe, log: Log): Promise<ExpertIndex> {
  const { from, out, codecs, overwrite } = options;
  const target = { out, codecs, overwrite, sources: [from] };
  await checkTarget({ dir: out, overwrite, sources: [from] });
  const config = (await readConfig(from, "BadModelConfig")) as Readonly<Record<string, unknown>>;
  inFolder(from, () => familyOf(config).program(config)); // before any weights are opened
  const checkpoint = await openCheckpoint(from);
  try {
    return await storeModel({ ...target, config, checkpoint, files: await companionFiles(from) }, log);
  } finally {
    await checkpoint.close();
  }
}
