// A model of a served family to a model store: experts become units, everything else is copied as stored. What tensors there are, and
// their shapes, is what the family's program reads. Holds one expert at a time, and pieces of other tensors.
import type { CodecName } from "../../crds/names.ts";
import { expertGrid } from "../kernels/check-program.ts";
import type { ModelProgram } from "../kernels/segment.ts";
import { denseWeights, type ModelFamily } from "../models/family.ts";
import { familyOf } from "../models/index.ts";
import { describeGrid } from "../placement/grid.ts";
import { openCheckpoint } from "../weights/checkpoint.ts";
import type { ExpertMatrices } from "../weights/codecs/codec.ts";
import { layerShapes } from "../weights/layer-shapes.ts";
import { checkTarget } from "../weights/model-folder.ts";
import type { TensorToWrite } from "../weights/safetensors-writer.ts";
import type { ExpertIndex, LayerShape } from "../weights/store.ts";
import { readConfig } from "../weights/store-reader.ts";
import { writeStore } from "../weights/store-writer.ts";
import type { Checkpoint } from "../weights/tensor-view.ts";
import { checkExpertTensor, placeIn, storedExpertTensor, tensorName } from "./expert-tensors.ts";
import { companionFiles, type Log } from "./files.ts";
import { architectureIn, inFolder } from "./model-config.ts";
import { checkShape, checkTiedHead, refuseUnknown } from "./tensors.ts";

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
  /** The files that the model comes from, which are never written to. */
  readonly sources: readonly string[];
  readonly config: Readonly<Record<string, unknown>>;
  readonly checkpoint: Checkpoint;
  /** Files beside the weights: name in the store to path. */
  readonly files: ReadonlyMap<string, string>;
}

function expertReader(checkpoint: Checkpoint, family: ModelFamily, shapes: readonly LayerShape[]) {
  return async (layer: number, expert: number): Promise<ExpertMatrices> => {
    const tensors = family.expertTensors(layer, expert);
    const read: Record<string, ExpertMatrices[string]> = {};
    const { matrices = [], experts = 0 } = shapes[layer] ?? {};
    for (const { name, shape } of matrices) {
      const tensor = placeIn(checkpoint, tensors[name] ?? name);
      checkExpertTensor(checkpoint, tensor, shape, experts);
      read[name] = await storedExpertTensor(checkpoint, tensor, shape);
    }
    return read;
  };
}

/** Lines that an import says of each part. */
const progressLines = 10;

function denseTensors(checkpoint: Checkpoint, program: ModelProgram, log: Log): readonly TensorToWrite[] {
  const weights = denseWeights(program);
  const step = Math.ceil(weights.length / progressLines);
  return weights.map(({ name, shape }, i) => {
    checkShape(checkpoint.dir, name, checkpoint.shape(name), shape);
    const read = (): AsyncIterable<Uint8Array> => {
      if (i > 0 && i % step === 0) log(`other tensors ${i}/${weights.length}`);
      return checkpoint.pieces(name);
    };
    return { name, dtype: checkpoint.dtype(name), shape, read };
  });
}

/**
 * The tensors that the model reads, each of which the checkpoint has. The first that it has not ends the walk: what a config.json claims
 * costs no more than what is there.
 */
function knownTensors(
  checkpoint: Checkpoint,
  family: ModelFamily,
  program: ModelProgram,
  shapes: readonly LayerShape[],
): ReadonlySet<string> {
  const known = new Set<string>();
  for (const { name, shape } of denseWeights(program)) {
    checkShape(checkpoint.dir, name, checkpoint.shape(name), shape);
    known.add(name);
  }
  for (const [layer, { experts, matrices }] of shapes.entries())
    for (let expert = 0; expert < experts; expert++) {
      const tensors = family.expertTensors(layer, expert);
      for (const { name, shape } of matrices) {
        const tensor = placeIn(checkpoint, tensors[name] ?? name);
        checkExpertTensor(checkpoint, tensor, shape, experts);
        known.add(tensorName(tensor));
      }
    }
  return known;
}

/** Writes the store of a model whose tensors a checkpoint gives; leaves that open. */
export async function storeModel(model: StoreModel, log: Log): Promise<ExpertIndex> {
  const { config, checkpoint, codecs, files } = model;
  const where = checkpoint.dir;
  const family = inFolder(where, () => familyOf(config));
  const program = inFolder(where, () => family.program(config));
  const architecture = architectureIn(where, config);
  const shapes = layerShapes(program);
  const known = knownTensors(checkpoint, family, program, shapes);
  const needless = family.needless?.(config) ?? [];
  const names = checkpoint.names.filter((name) => !needless.some((start) => name.startsWith(start)));
  refuseUnknown(where, names, known, architecture);
  await checkTiedHead(checkpoint, known);
  const grid = expertGrid(program);
  log(`importing ${architecture}: ${describeGrid(grid)}, codecs ${codecs.join(", ")}`);
  const step = Math.max(1, Math.floor(grid.layers / progressLines)) * grid.experts;
  return writeStore(
    {
      config,
      architecture,
      layers: shapes,
      hidden: program.hidden,
      codecs,
      dense: denseTensors(checkpoint, program, log),
      expert: expertReader(checkpoint, family, shapes),
      files,
    },
    {
      dir: model.out,
      overwrite: model.overwrite,
      sources: model.sources,
      onProgress: ({ units, of, bytes }) => {
        if (units % step === 0) log(`experts ${units}/${of}, ${(bytes / 1e6).toFixed(0)} MB written`);
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
