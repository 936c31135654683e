// The result of a run: a model store for a deployment, a Hugging Face folder, and the adapters as trained.
import { copyFile, mkdir, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { CodecName } from "../../../crds/names.ts";
import { architectureOf } from "../../models/family.ts";
import { valuesOf } from "../../weights/codecs/codec.ts";
import { codecFor } from "../../weights/codecs/index.ts";
import { bytesOf } from "../../weights/floats.ts";
import { layerShapes } from "../../weights/layer-shapes.ts";
import { checkTarget, writeFolder } from "../../weights/model-folder.ts";
import { packed } from "../../weights/packed-writer.ts";
import { type TensorToWrite, writeSafetensors } from "../../weights/safetensors-writer.ts";
import type { ExpertIndex } from "../../weights/store.ts";
import { writeStore } from "../../weights/store-writer.ts";
import { type Layout, movedTo, type Unit, viewsOf } from "./layout.ts";
import type { ModelSource } from "./model-source.ts";

export interface AdapterDescription {
  readonly file: string;
  readonly json: Readonly<Record<string, unknown>>;
}

export function resultFolders(out: string): { readonly store: string; readonly folder: string; readonly adapters: string } {
  return { store: join(out, "store"), folder: join(out, "huggingface"), adapters: join(out, "adapters") };
}

/** Throws the errors of folders and codecs that writing the result would throw, before the first step. */
export async function checkResult(source: ModelSource, out: string, codecs: readonly CodecName[]): Promise<void> {
  const { store, folder } = resultFolders(out);
  for (const dir of [store, folder]) await checkTarget({ dir, overwrite: true, sources: [source.dir] });
  // One row per matrix: whether a codec takes it depends on its columns.
  const rows = layerShapes(source.program).map(({ matrices }) =>
    matrices.map(({ name, shape }) => ({ name, shape: shape.length < 2 ? shape : [1, ...shape.slice(1)] })),
  );
  for (const shape of rows) {
    const zeros = Object.fromEntries(shape.map((part) => [part.name, new Float32Array(valuesOf(part.shape))]));
    for (const codec of codecs) codecFor(codec).encode(zeros, shape);
  }
}

export interface Trained {
  readonly source: ModelSource;
  readonly layout: Layout;
  parameters(part: number, index: number): Promise<Float32Array>;
}

export function lastHeld(parameters: Trained["parameters"]): Trained["parameters"] {
  let held: { readonly key: string; readonly values: Promise<Float32Array> } | undefined;
  return (part, index) => {
    const key = `${part} ${index}`;
    if (held?.key !== key) held = { key, values: parameters(part, index) };
    return held.values;
  };
}

function tensorsOf(trained: Omit<Trained, "source">, dense: boolean): readonly TensorToWrite[] {
  const parameters = lastHeld(trained.parameters);
  const tensors = (unit: Unit, part: number, index: number): readonly TensorToWrite[] =>
    movedTo(unit, 0).parameters.map(({ tensor, shape, from, size }) => ({
      name: tensor,
      dtype: "F32",
      shape,
      read: async () => bytesOf((await parameters(part, index)).subarray(from, from + size)),
    }));
  return trained.layout.parts.flatMap(({ units }, part) =>
    units.flatMap((unit, index) => (dense && unit.expert !== undefined ? [] : tensors(unit, part, index))),
  );
}

/** Parameters are f32 whatever the source's type. */
function configOf({ config }: ModelSource): Record<string, unknown> {
  const { torch_dtype: _torch, dtype: _dtype, quantization_config: _quantized, ...rest } = config;
  return { ...rest, torch_dtype: "float32" };
}

/** transformers refuses these fields as numbers without a point, which JSON drops. */
const floatFields = [
  ...["attention_dropout", "aux_loss_alpha", "clip_qkv", "initializer_range", "rms_norm_eps", "routed_scaling_factor"],
  ...["router_aux_loss_coef", "router_jitter_noise", "swiglu_alpha", "swiglu_limit"],
];
const wholeFloat = new RegExp(`^( {2}"(?:${floatFields.join("|")})": -?[0-9]+)(,?)$`, "gm");

const configText = (source: ModelSource): string => `${JSON.stringify(configOf(source), undefined, 2).replace(wholeFloat, "$1.0$2")}\n`;

export async function writeTrainedStore(trained: Trained, dir: string, codecs: readonly CodecName[]): Promise<ExpertIndex> {
  const { source, layout, parameters } = trained;
  return writeStore(
    {
      config: configOf(source),
      architecture: architectureOf(source.config),
      layers: layerShapes(source.program),
      hidden: source.program.hidden,
      codecs,
      dense: tensorsOf(trained, true),
      expert: async (layer, expert) => {
        const unit = layout.parts[layer + 1]?.units[expert + 1] as Unit;
        return viewsOf((await parameters(layer + 1, expert + 1)).slice(), movedTo(unit, 0));
      },
      files: source.files,
    },
    { dir, overwrite: true, sources: [source.dir] },
  );
}

export async function writeTrainedFolder(trained: Trained, dir: string): Promise<void> {
  const { source } = trained;
  await writeFolder({ dir, overwrite: true, sources: [source.dir] }, async (work) => {
    await writeFile(join(work, "config.json"), configText(source));
    for (const [name, path] of source.files) await copyFile(path, join(work, name));
    await writeSafetensors(join(work, "model.safetensors"), packed(tensorsOf(trained, false), source.family));
  });
}

export async function writeAdapters(trained: Omit<Trained, "source">, dir: string, description: AdapterDescription): Promise<void> {
  await mkdir(dir, { recursive: true });
  const weights = join(dir, "adapter_model.safetensors");
  await writeSafetensors(`${weights}.tmp`, tensorsOf(trained, false));
  await rename(`${weights}.tmp`, weights);
  await writeFile(join(dir, description.file), `${JSON.stringify(description.json, undefined, 2)}\n`);
}
