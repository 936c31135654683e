// A folder of a served family (Hugging Face layout, safetensors) to a model store: experts become units, everything else is
// copied as stored. What tensors there are, and their shapes, is what the family's program reads.
import { join } from "node:path";
import type { CodecName } from "../../crds/names.ts";
import type { ModelProgram } from "../kernels/segment.ts";
import { denseWeights, type ModelFamily } from "../models/family.ts";
import { familyOf } from "../models/index.ts";
import { type Checkpoint, openCheckpoint } from "../weights/checkpoint.ts";
import type { ExpertMatrices } from "../weights/codecs/codec.ts";
import type { TensorToWrite } from "../weights/safetensors-writer.ts";
import type { ExpertIndex } from "../weights/store.ts";
import { readJson } from "../weights/store-reader.ts";
import { writeStore } from "../weights/store-writer.ts";
import { companionFiles, type Log } from "./files.ts";
import { architectureIn, inFolder } from "./model-config.ts";
import { checkShape, refuseUnknown } from "./tensors.ts";

export interface ImportMoe {
  readonly from: string;
  readonly out: string;
  readonly codecs: readonly CodecName[];
  readonly overwrite: boolean;
}

const matrices = ["w1", "w2", "w3"] as const;

function expertReader(checkpoint: Checkpoint, family: ModelFamily, program: ModelProgram) {
  const shapes = new Map(program.expert.weights.map(({ name, shape }) => [name, shape]));
  return async (layer: number, expert: number): Promise<ExpertMatrices> => {
    const tensors = family.expertTensors(layer, expert);
    const read = async (matrix: (typeof matrices)[number]) => {
      checkShape(checkpoint.dir, tensors[matrix], checkpoint.shape(tensors[matrix]), shapes.get(matrix) ?? []);
      return checkpoint.read(tensors[matrix]);
    };
    return { w1: await read("w1"), w2: await read("w2"), w3: await read("w3") };
  };
}

function denseTensors(checkpoint: Checkpoint, program: ModelProgram): readonly TensorToWrite[] {
  return denseWeights(program).map(({ name, shape }) => {
    checkShape(checkpoint.dir, name, checkpoint.shape(name), shape);
    const dtype = checkpoint.info(name)?.dtype ?? "F32";
    return { name, dtype, shape, read: () => checkpoint.readRaw(name) };
  });
}

function knownTensors(family: ModelFamily, program: ModelProgram): ReadonlySet<string> {
  const known = new Set(denseWeights(program).map(({ name }) => name));
  for (let layer = 0; layer < program.layers; layer++) {
    for (let expert = 0; expert < program.experts; expert++) {
      const tensors = family.expertTensors(layer, expert);
      for (const matrix of matrices) known.add(tensors[matrix]);
    }
  }
  return known;
}

export async function importMoe(options: ImportMoe, log: Log): Promise<ExpertIndex> {
  const { from, codecs } = options;
  const config = (await readJson(join(from, "config.json"), "BadModelConfig")) as Readonly<Record<string, unknown>>;
  const family = inFolder(from, () => familyOf(config));
  const program = inFolder(from, () => family.program(config));
  const architecture = architectureIn(from, config);
  const checkpoint = await openCheckpoint(from);
  try {
    refuseUnknown(from, checkpoint.names, knownTensors(family, program), architecture);
    const { layers, experts, topK, hidden, ffn } = program;
    log(`importing ${architecture}: ${layers} layers of ${experts} experts, codecs ${codecs.join(", ")}`);
    const step = Math.max(1, Math.floor(layers / 10)) * experts;
    return await writeStore(
      options.out,
      {
        config,
        architecture,
        layers,
        experts,
        topK,
        hidden,
        ffn,
        codecs,
        dense: denseTensors(checkpoint, program),
        expert: expertReader(checkpoint, family, program),
        files: await companionFiles(from),
      },
      {
        overwrite: options.overwrite,
        onProgress: ({ units, of, bytes }) => {
          if (units % step === 0) log(`experts ${units}/${of}, ${(bytes / 1e6).toFixed(0)} MB written`);
        },
      },
    );
  } finally {
    await checkpoint.close();
  }
}
