// The end of a run: its parameters as a model store, which a deployment serves, as a Hugging Face folder, and adapters as they were
// trained. Shell.
import { copyFile, mkdir, rename, writeFile } from "node:fs/promises";
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
import { layoutOf, type Unit, unitsOf, viewsByTensor } from "./layout.ts";
import type { ModelSource } from "./source.ts";
import type { TrainedModel, Values } from "./trained.ts";

/** Where the result of a run goes. */
export function resultFolders(out: string): { readonly store: string; readonly folder: string } {
  return { store: join(out, "store"), folder: join(out, "huggingface") };
}

const adaptersFolder = (out: string): string => join(out, "adapters");

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
  readonly model: TrainedModel;
  readonly values: Values;
}

/** The result's tensors, each made when its turn comes. */
function tensorsOf(units: readonly Unit[], valuesOf: (tensor: string) => Float32Array): readonly TensorToWrite[] {
  return units.flatMap((unit) =>
    unit.parameters.map(
      ({ tensor, shape }): TensorToWrite => ({ name: tensor, dtype: "F32", shape, read: async () => bytesOf(valuesOf(tensor)) }),
    ),
  );
}

const resultLayout = ({ model: { result } }: Trained) => layoutOf(result.program, result.family.expertTensors);

/** Numbers are in f32 whatever the model came in. */
function configOf({ config }: ModelSource): Record<string, unknown> {
  const { torch_dtype: _torch, dtype: _dtype, quantization_config: _quantized, ...rest } = config;
  return { ...rest, torch_dtype: "float32" };
}

export async function writeTrainedStore(
  trained: Trained,
  dir: string,
  codecs: readonly CodecName[],
): Promise<ExpertIndex> {
  const { model, values } = trained;
  const { result: source } = model;
  const layout = resultLayout(trained);
  const valuesOf = (tensor: string): Float32Array => model.tensor(tensor, values);
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
        valuesOf,
      ),
      async expert(layer, expert) {
        const { parameters } = layout.parts[layer + 1]?.units[expert + 1] as Unit;
        return Object.fromEntries(parameters.map(({ name, tensor }) => [name, valuesOf(tensor)]));
      },
      files: source.files,
    },
    { dir, overwrite: true, sources: [source.dir] },
  );
}

export async function writeTrainedFolder(trained: Trained, dir: string): Promise<void> {
  const { model, values } = trained;
  const { result: source } = model;
  await writeFolder({ dir, overwrite: true, sources: [source.dir] }, async (work) => {
    await writeFile(join(work, "config.json"), `${JSON.stringify(configOf(source), undefined, 2)}\n`);
    for (const [name, path] of source.files) await copyFile(path, join(work, name));
    const units = unitsOf(resultLayout(trained));
    await writeSafetensors(
      join(work, "model.safetensors"),
      tensorsOf(units, (tensor) => model.tensor(tensor, values)),
    );
  });
}

/** Writes adapters as they were trained, by the names of their own; returns where, or undefined where there are none. */
export async function writeAdapters({ model, values }: Trained, out: string): Promise<string | undefined> {
  const { layout, description } = model;
  if (description === undefined) return undefined;
  const dir = adaptersFolder(out);
  await mkdir(dir, { recursive: true });
  const views = viewsByTensor(values.parameters, layout);
  const weights = join(dir, "adapter_model.safetensors");
  await writeSafetensors(
    `${weights}.tmp`,
    tensorsOf(unitsOf(layout), (tensor) => views[tensor] as Float32Array),
  );
  await rename(`${weights}.tmp`, weights);
  await writeFile(join(dir, description.file), `${JSON.stringify(description.json, undefined, 2)}\n`);
  return dir;
}
