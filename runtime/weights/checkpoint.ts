// A Hugging Face model folder as one tensor source: `model.safetensors`, or shards listed by `model.safetensors.index.json`.
// Not here: GGUF (gguf.ts) and what tensors mean (runtime/tools).
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { AppError } from "../../crds/common.ts";
import { openSafetensors, type SafetensorsFile, type TensorInfo } from "./safetensors.ts";
import { readJson } from "./store-reader.ts";

const shardsMax = 4096;

/** Shard names must stay inside the folder. */
const shardIndexSchema = z.object({ weight_map: z.record(z.string(), z.string().regex(/^(?!\.)[\w.-]+\.safetensors$/)) });

export interface Checkpoint {
  readonly dir: string;
  readonly names: readonly string[];
  info(name: string): TensorInfo | undefined;
  shape(name: string): readonly number[] | undefined;
  read(name: string): Promise<Float32Array>;
  readRaw(name: string): Promise<Uint8Array>;
  close(): Promise<void>;
}

async function shardsOf(dir: string): Promise<ReadonlyMap<string, string> | undefined> {
  const path = join(dir, "model.safetensors.index.json");
  if (!(await stat(path).catch(() => undefined))) return undefined;
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

export async function openCheckpoint(dir: string): Promise<Checkpoint> {
  const listed = await shardsOf(dir);
  if (!listed && !(await stat(join(dir, "model.safetensors")).catch(() => undefined))) {
    throw new AppError(
      `${dir}: has neither model.safetensors nor model.safetensors.index.json; give a Hugging Face model folder or a .gguf file`,
      {
        code: "ModelNotFound",
      },
    );
  }
  const files = await openShards(dir, listed ? [...new Set(listed.values())].sort() : ["model.safetensors"]);
  const homes = listed ?? new Map([...(files.get("model.safetensors")?.names ?? [])].map((name) => [name, "model.safetensors"]));
  const fileOf = (name: string): SafetensorsFile => {
    const file = files.get(homes.get(name) ?? "");
    if (!file) throw new AppError(`${dir}: has no tensor "${name}"; the checkpoint is incomplete`, { code: "MissingTensor" });
    return file;
  };
  return {
    dir,
    names: [...homes.keys()],
    info: (name) => files.get(homes.get(name) ?? "")?.tensors.get(name),
    shape: (name) => files.get(homes.get(name) ?? "")?.shape(name),
    read: async (name) => fileOf(name).read(name),
    readRaw: async (name) => fileOf(name).readRaw(name),
    async close() {
      for (const file of files.values()) await file.close();
    },
  };
}
