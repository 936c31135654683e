// The writer of a model store: everything into a temporary folder beside the target, then one rename. Streams; holds one expert at
// a time. A crash leaves a `.tmp-` folder that the next write of the same store removes. Shell.
import { copyFile, mkdir, open, readdir, rename, rm, stat, writeFile } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { AppError } from "../../crds/common.ts";
import type { CodecName } from "../../crds/names.ts";
import type { ExpertMatrices } from "./codecs/codec.ts";
import { codecFor } from "./codecs/index.ts";
import { modelDigest, sha256Hex } from "./digest.ts";
import { type TensorToWrite, writeAll, writeSafetensors } from "./safetensors-writer.ts";
import { type ExpertIndex, expertIndexSchema, type LayerShape, sizesOf, storeVersion, unitAlignment } from "./store.ts";

export interface StoreSpec {
  /** The model's configuration, written as config.json. */
  readonly config: Readonly<Record<string, unknown>>;
  readonly architecture: string;
  readonly layers: readonly LayerShape[];
  readonly hidden: number;
  readonly codecs: readonly CodecName[];
  readonly dense: readonly TensorToWrite[];
  /** One expert in f32; called once for each, layer by layer. */
  expert(layer: number, expert: number): Promise<ExpertMatrices>;
  /** Further files to copy: name in the store to path. */
  readonly files: ReadonlyMap<string, string>;
}

export interface WriteOptions {
  /** True to replace an existing store; else an existing folder is an error. */
  readonly overwrite: boolean;
  readonly onProgress?: (done: { readonly units: number; readonly of: number; readonly bytes: number }) => void;
}

/** Runs `fill` on a temporary folder and moves it to `dir` when it succeeds; removes it when it does not. */
export async function writeFolder(dir: string, overwrite: boolean, fill: (work: string) => Promise<void>): Promise<void> {
  const target = resolve(dir);
  const parent = dirname(target);
  const prefix = `.${basename(target)}.tmp-`;
  if (!overwrite && (await stat(target).catch(() => undefined))) {
    throw new AppError(`${target}: exists already; pass --overwrite to replace it or --out for another folder`, { code: "AlreadyExists" });
  }
  await mkdir(parent, { recursive: true });
  for (const name of await readdir(parent)) {
    const owner = name.startsWith(prefix) ? Number(name.slice(prefix.length)) : Number.NaN;
    if (Number.isInteger(owner) && !alive(owner)) await rm(join(parent, name), { recursive: true, force: true });
  }
  const work = join(parent, `${prefix}${process.pid}`);
  await rm(work, { recursive: true, force: true });
  await mkdir(work);
  try {
    await fill(work);
    await rm(target, { recursive: true, force: true });
    await rename(work, target);
  } catch (caught) {
    await rm(work, { recursive: true, force: true });
    throw caught;
  }
}

function alive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (cause) {
    return (cause as NodeJS.ErrnoException).code === "EPERM";
  }
}

type CodecEntry = NonNullable<ExpertIndex["codecs"][CodecName]>;

async function writeUnits(work: string, spec: StoreSpec, onProgress: WriteOptions["onProgress"]): Promise<ExpertIndex["codecs"]> {
  const out = await Promise.all(
    spec.codecs.map(async (name) => {
      const file = `experts-${name}.bin`;
      return { name, file, end: 0, handle: await open(join(work, file), "wx"), units: [] as CodecEntry["units"] };
    }),
  );
  const of = spec.layers.reduce((sum, { experts }) => sum + experts, 0);
  let [written, units] = [0, 0];
  try {
    for (const [layer, { experts, matrices }] of spec.layers.entries()) {
      for (const codec of out) codec.units.push([]);
      for (let expert = 0; expert < experts; expert++) {
        const values = await spec.expert(layer, expert);
        for (const codec of out) {
          const unit = codecFor(codec.name).encode(values, matrices);
          await writeAll(codec.handle, unit, codec.end);
          codec.units[layer]?.push({ offset: codec.end, bytes: unit.length, sha256: sha256Hex(unit) });
          codec.end += Math.ceil(unit.length / unitAlignment) * unitAlignment;
          written += unit.length;
        }
        units += 1;
        onProgress?.({ units, of, bytes: written });
      }
    }
    for (const codec of out) {
      await codec.handle.truncate(codec.end);
      await codec.handle.sync();
    }
  } finally {
    for (const codec of out) await codec.handle.close();
  }
  return Object.fromEntries(out.map(({ name, file, units }) => [name, { file, units }]));
}

/** Writes the store to `dir` and returns its index. */
export async function writeStore(dir: string, spec: StoreSpec, options: WriteOptions): Promise<ExpertIndex> {
  let index: ExpertIndex | undefined;
  await writeFolder(dir, options.overwrite, async (work) => {
    const configText = `${JSON.stringify(spec.config, undefined, 2)}\n`;
    await writeFile(join(work, "config.json"), configText);
    for (const [name, from] of spec.files) await copyFile(from, join(work, name));
    const dense = await writeSafetensors(join(work, "dense.safetensors"), spec.dense);
    const codecs = await writeUnits(work, spec, options.onProgress);
    const modelDigestHex = modelDigest(configText, dense, codecs);
    index = expertIndexSchema.parse({
      version: storeVersion,
      modelDigest: modelDigestHex,
      architecture: spec.architecture,
      ...sizesOf(spec.layers, spec.hidden),
      dense,
      codecs,
    });
    await writeFile(join(work, "expert-index.json"), `${JSON.stringify(index)}\n`);
  });
  return index as ExpertIndex;
}
