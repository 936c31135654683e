// A Hugging Face model folder, of one file or shards, as a tensor source.
import { join } from "node:path";
import { z } from "zod";
import { AppError } from "../../crds/common.ts";
import { statIfThere } from "./file.ts";
import { type RawTensor, unpacked } from "./packed.ts";
import { quantizationIn } from "./quantization.ts";
import { openSafetensors, type SafetensorsFile, storedFormOfDtype, type TensorInfo } from "./safetensors.ts";
import { readJson } from "./store-reader.ts";
import { blockOf } from "./stored.ts";
import { type Checkpoint, checkedRows, checkpointOf, type TensorView } from "./tensor-view.ts";

const shardsMax = 4096;
const singleFile = "model.safetensors";
const indexFile = `${singleFile}.index.json`;

/** Shard names must stay inside the folder. */
const shardIndexSchema = z.object({ weight_map: z.record(z.string(), z.string().regex(/^(?!\.)[\w.-]+\.safetensors$/)) });

/** Tensor to file; undefined without an index. */
async function shardsOf(dir: string): Promise<ReadonlyMap<string, string> | undefined> {
  const path = join(dir, indexFile);
  if (!(await statIfThere(path))) return undefined;
  const parsed = shardIndexSchema.safeParse(await readJson(path, "BadSafetensors"));
  if (!parsed.success) {
    throw new AppError(
      `${path}: ${parsed.error.issues[0]?.message ?? "invalid"} at ${parsed.error.issues[0]?.path.join(".")}; download it again`,
      {
        code: "BadSafetensors",
      },
    );
  }
  return new Map(Object.entries(parsed.data.weight_map));
}

async function openShards(dir: string, names: readonly string[]): Promise<ReadonlyMap<string, SafetensorsFile>> {
  if (names.length > shardsMax)
    throw new AppError(`${dir}: lists ${names.length} shards, more than ${shardsMax}`, { code: "BadSafetensors" });
  const files = new Map<string, SafetensorsFile>();
  try {
    for (const name of names) files.set(name, await openSafetensors(join(dir, name)));
  } catch (caught) {
    for (const file of files.values()) await file.close();
    throw caught;
  }
  return files;
}

/** transformers reads all tensors of all shards, and model.safetensors before any index; a contradiction would be ambiguous. */
function disagreement(
  listed: ReadonlyMap<string, string>,
  files: ReadonlyMap<string, SafetensorsFile>,
  single: boolean,
): string | undefined {
  if (single && !files.has(singleFile)) return `lists other files, and ${singleFile} is there too`;
  for (const [name, shard] of listed)
    if (!files.get(shard)?.tensors.has(name)) return `says that tensor "${name}" is in ${shard}, which has no such tensor`;
  for (const [shard, { names }] of files) {
    const strange = names.find((name) => listed.get(name) !== shard);
    if (strange !== undefined) return `says nothing of tensor "${strange}" in ${shard}`;
  }
  return undefined;
}

async function openFiles(
  dir: string,
): Promise<{ readonly shardOf: ReadonlyMap<string, string>; readonly files: ReadonlyMap<string, SafetensorsFile> }> {
  const listed = await shardsOf(dir);
  const single = (await statIfThere(join(dir, singleFile))) !== undefined;
  if (!listed && !single) {
    throw new AppError(`${dir}: has neither ${singleFile} nor ${indexFile}; give a Hugging Face model folder or a .gguf file`, {
      code: "ModelNotFound",
    });
  }
  const files = await openShards(dir, listed ? [...new Set(listed.values())].sort() : [singleFile]);
  const wrong = listed && disagreement(listed, files, single);
  if (wrong !== undefined) {
    for (const file of files.values()) await file.close();
    throw new AppError(`${join(dir, indexFile)}: ${wrong}; download the model again, or remove the file that is not its own`, {
      code: "BadSafetensors",
    });
  }
  return { shardOf: listed ?? new Map((files.get(singleFile)?.names ?? []).map((name) => [name, singleFile])), files };
}

function plainView(file: SafetensorsFile, path: string, name: string, info: TensorInfo): TensorView {
  const form = storedFormOfDtype(info.dtype) ?? "f32"; // plain tensors have one
  const columns = info.shape.at(-1) ?? 1;
  const rowBytes = columns * blockOf(form).bytes;
  return {
    shape: info.shape,
    form,
    async rows({ first, rows }) {
      const bytes = await file.readBytes(name, first * rowBytes, rows * rowBytes);
      return checkedRows(path, name, { form, bytes, shape: info.shape, first: first * columns });
    },
  };
}

/** Unpacks packed tensors and splits stacked experts (packed.ts). */
export async function openCheckpoint(dir: string): Promise<Checkpoint> {
  const { shardOf, files } = await openFiles(dir);
  const close = async (): Promise<void> => {
    for (const file of files.values()) await file.close();
  };
  try {
    const raw = new Map<string, RawTensor>();
    for (const [name, shard] of shardOf) {
      const file = files.get(shard);
      const info = file?.tensors.get(name);
      if (!file || !info) continue;
      const path = join(dir, shard);
      raw.set(name, {
        path,
        info,
        bytes: (from, length) => file.readBytes(name, from, length),
        view: () => plainView(file, path, name, info),
      });
    }
    const [words] = [...raw].find(([, { info }]) => info.dtype === "I32" || info.dtype === "I16") ?? [];
    const quantization = words === undefined ? undefined : await quantizationIn(dir, words);
    return checkpointOf(dir, unpacked(raw, quantization), close);
  } catch (caught) {
    await close();
    throw caught;
  }
}
