// A folder of a served family (Hugging Face layout, safetensors) to a model store: experts become units, everything else is
// copied as stored. What tensors there are, and their shapes, is what the family's program reads.
import type { CodecName } from "../../crds/names.ts";
import { expertGrid } from "../kernels/check-program.ts";
import type { ModelProgram } from "../kernels/segment.ts";
import { denseWeights, type ModelFamily } from "../models/family.ts";
import { familyOf } from "../models/index.ts";
import { describeGrid } from "../placement/grid.ts";
import { type Checkpoint, openCheckpoint } from "../weights/checkpoint.ts";
import type { ExpertMatrices } from "../weights/codecs/codec.ts";
import { layerShapes } from "../weights/layer-shapes.ts";
import { checkTarget } from "../weights/model-folder.ts";
import type { TensorToWrite } from "../weights/safetensors-writer.ts";
import type { ExpertIndex, LayerShape } from "../weights/store.ts";
import { readConfig } from "../weights/store-reader.ts";
import { writeStore } from "../weights/store-writer.ts";
import { checkExpertTensor, readExpertTensor, tensorName } from "./expert-tensors.ts";
import { companionFiles, type Log } from "./files.ts";
import { architectureIn, inFolder } from "./model-config.ts";
import { checkShape, checkTiedHead, refuseUnknown } from "./tensors.ts";

export interface ImportMoe {
  readonly from: string;
  readonly out: string;
  readonly codecs: readonly CodecName[];
  readonly overwrite: boolean;
}

function expertReader(checkpoint: Checkpoint, family: ModelFamily, shapes: readonly LayerShape[]) {
  return async (layer: number, expert: number): Promise<ExpertMatrices> => {
    const tensors = family.expertTensors(layer, expert);
    const read: Record<string, Float32Array> = {};
    const { matrices = [], experts = 0 } = shapes[layer] ?? {};
    for (const { name, shape } of matrices) {
      const tensor = tensors[name] ?? name;
      checkExpertTensor(checkpoint, tensor, shape, experts);
      read[name] = await readExpertTensor(checkpoint, tensor, shape);
    }
    return read;
  };
}

function denseTensors(checkpoint: Checkpoint, program: ModelProgram): readonly TensorToWrite[] {
  return denseWeights(program).map(({ name, shape }) => {
    checkShape(checkpoint.dir, name, checkpoint.shape(name), shape);
    const dtype = checkpoint.info(name)?.dtype ?? "F32";
    return { name, dtype, shape, read: () => checkpoint.readRaw(name) };
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
        const tensor = tensors[name] ?? name;
        checkExpertTensor(checkpoint, tensor, shape, experts);
        known.add(tensorName(tensor));
      }
    }
  return known;
}

export async function importMoe(options: ImportMoe, log: Log): Promise<ExpertIndex> {
  const { from, out, codecs, overwrite } = options;
  const target = { dir: out, overwrite, sources: [from] };
  await checkTarget(target);
  const config = (await readConfig(from, "BadModelConfig")) as Readonly<Record<string, unknown>>;
  const family = inFolder(from, () => familyOf(config));
  const program = inFolder(from, () => family.program(config));
  const architecture = architectureIn(from, config);
  const checkpoint = await openCheckpoint(from);
  try {
    const shapes = layerShapes(program);
    const known = knownTensors(checkpoint, family, program, shapes);
    const needless = family.needless?.(config) ?? [];
    const names = checkpoint.names.filter((name) => !needless.some((start) => name.startsWith(start)));
    refuseUnknown(from, names, known, architecture);
    await checkTiedHead(checkpoint, known);
    const grid = expertGrid(program);
    log(`importing ${architecture}: ${describeGrid(grid)}, codecs ${codecs.join(", ")}`);
    const step = Math.max(1, Math.floor(grid.layers / 10)) * grid.experts;
    return await writeStore(
      {
        config,
        architecture,
        layers: shapes,
        hidden: program.hidden,
        codecs,
        dense: denseTensors(checkpoint, program),
        expert: expertReader(checkpoint, family, shapes),
        files: await companionFiles(from),
      },
      {
        ...target,
        onProgress: ({ units, of, bytes }) => {
          if (units % step === 0) log(`experts ${units}/${of}, ${(bytes / 1e6).toFixed(0)} MB written`);
        },
      },
    );
  } finally {
    await checkpoint.close();
  }
}
