// The end of a run: its parameters as a model store, which a deployment serves, and as a Hugging Face folder. Shell.
import { copyFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { CodecName } from "../../crds/names.ts";
import { architectureOf } from "../models/family.ts";
import { valuesOf } from "../weights/codecs/codec.ts";
import { codecFor } from "../weights/codecs/index.ts";
import { bytesOf } from "../weights/floats.ts";
import { layerShapes } from "../weights/layer-shapes.ts";
import { checkTarget, writeFolder } from "../weights/model-folder.ts";
import { type TensorToWrite, writeSafetensors } from "../weights/safetensors-writer.ts";
import type { ExpertIndex } from "../weights/store.ts";
import { writeStore } from "../weights/store-writer.ts";
import { type Layout, type Unit, unitsOf, viewsOf } from "./layout.ts";
import type { ModelSource } from "./source.ts";

/** Where the result of a run goes. */
export function resultFolders(out: string): { readonly store: string; readonly folder: string } {
  return { store: join(out, "store"), folder: join(out, "huggingface") };
}

/** Throws what the writing of the result would, as far as that is known before the first step: of folders and of codecs. */
export async function checkResult(source: ModelSource, out: string, codecs: readonly CodecName[]): Promise<void> {
  for (const dir of Object.values(resultFolders(out))) await checkTarget({ dir, overwrite: true, sources: [source.dir] });
  // A row of each matrix: whether a codec takes it depends on its columns.
  const rows = layerShapes(source.program).map(({ matrices }) =>
    matrices.map(({ name, shape }) => ({ name, shape: shape.length < 2 ? shape : [1, ...shape.slice(1)] })),
  );
  for (const shape of rows) {
    const zeros = Object.fromEntries(shape.map((part) => [part.name, new Float32Array(valuesOf(part.shape))]));
    for (const codec of codecs) codecFor(codec).encode(zeros, shape);
  }
}

interface Trained {
  readonly source: ModelSource;
  readonly layout: Layout;
  readonly parameters: Float32Array;
}

function tensorsOf(units: readonly Unit[], parameters: Float32Array): readonly TensorToWrite[] {
  return units.flatMap((unit) =>
    unit.parameters.map(
      ({ tensor, shape, from, size }): TensorToWrite => ({
        name: tensor,
        dtype: "F32",
        shape,
        read: async () => bytesOf(parameters.subarray(from, from + size)),
      }),
    ),
  );
}

/** Numbers are in f32 whatever the model came in. */
function configOf({ config }: ModelSource): Record<string, unknown> {
  const { torch_dtype: _torch, dtype: _dtype, quantization_config: _quantized, ...rest } = config;
  return { ...rest, torch_dtype: "float32" };
}

export async function writeTrainedStore(
  { source, layout, parameters }: Trained,
  dir: string,
  codecs: readonly CodecName[],
): Promise<ExpertIndex> {
  const units = unitsOf(layout);
  return writeStore(
    {
      config: configOf(source),
      architecture: architectureOf(source.config),
      layers: layerShapes(source.program),
      hidden: source.program.hidden,
      codecs,
      dense: tensorsOf(
        units.filter(({ expert }) => expert === undefined),
        parameters,
      ),
      expert: async (layer, expert) => viewsOf(parameters, layout.parts[layer + 1]?.units[expert + 1] as Unit),
      files: source.files,
    },
    { dir, overwrite: true, sources: [source.dir] },
  );
}

export async function writeTrainedFolder({ source, layout, parameters }: Trained, dir: string): Promise<void> {
  await writeFolder({ dir, overwrite: true, sources: [source.dir] }, async (work) => {
    await writeFile(join(work, "config.json"), `${JSON.stringify(configOf(source), undefined, 2)}\n`);
    for (const [name, path] of source.files) await copyFile(path, join(work, name));
    await writeSafetensors(join(work, "model.safetensors"), tensorsOf(unitsOf(layout), parameters));
  });
}
