// Writes a model store as a stream, with one expert in memory.
import { copyFile, open, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { CodecName } from "../../crds/names.ts";
import type { ExpertMatrices, UnitShape } from "./codecs/codec.ts";
import { codecFor } from "./codecs/index.ts";
import { modelDigest, sha256Hex } from "./digest.ts";
import { type FolderTarget, writeFolder } from "./model-folder.ts";
import { type TensorToWrite, writeAll, writeSafetensors } from "./safetensors-writer.ts";
import { type ExpertIndex, expertIndexSchema, type LayerShape, sizesOf, storeVersion, unitAlignment, unitShapeOf } from "./store.ts";

export interface StoreSpec {
  /** Becomes config.json. */
  readonly config: Readonly<Record<string, unknown>>;
  readonly architecture: string;
  readonly layers: readonly LayerShape[];
  readonly hidden: number;
  readonly codecs: readonly CodecName[];
  readonly dense: readonly TensorToWrite[];
  /** Forms of dense tensors in blocks. */
  readonly denseForms?: ExpertIndex["denseForms"];
  /** Forms of each layer's matrices, for codecs with `asGiven`. */
  readonly forms?: NonNullable<ExpertIndex["codecs"][CodecName]>["forms"];
  /** f32 or as stored; called once per expert, layer by layer. */
  expert(layer: number, expert: number): Promise<ExpertMatrices>;
  /** Additional files: name in the store to path. */
  readonly files: ReadonlyMap<string, string>;
}

export interface WriteOptions extends FolderTarget {
  readonly onProgress?: (done: { readonly units: number; readonly of: number; readonly bytes: number }) => void;
}

type CodecEntry = NonNullable<ExpertIndex["codecs"][CodecName]>;

function partsOf({ layers, forms }: StoreSpec, codec: CodecName, layer: number): UnitShape {
  const matrices = layers[layer]?.matrices ?? [];
  return unitShapeOf(codecFor(codec).asGiven ? forms?.[layer] : undefined, matrices);
}

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
    for (const [layer, { experts }] of spec.layers.entries()) {
      for (const codec of out) codec.units.push([]);
      for (let expert = 0; expert < experts; expert++) {
        const values = await spec.expert(layer, expert);
        for (const codec of out) {
          const unit = codecFor(codec.name).encode(values, partsOf(spec, codec.name, layer));
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
  return Object.fromEntries(
    out.map(({ name, file, units }) => {
      const entry = { file, units };
      return [name, codecFor(name).asGiven && spec.forms ? { ...entry, forms: spec.forms } : entry];
    }),
  );
}

/** Returns each file's SHA-256 as copied. */
async function copyFiles(work: string, files: StoreSpec["files"]): Promise<Readonly<Record<string, string>>> {
  const hashes: Record<string, string> = {};
  for (const [name, from] of files) {
    await copyFile(from, join(work, name));
    hashes[name] = sha256Hex(await readFile(join(work, name)));
  }
  return hashes;
}

/** Returns the index. */
export async function writeStore(spec: StoreSpec, options: WriteOptions): Promise<ExpertIndex> {
  let index: ExpertIndex | undefined;
  await writeFolder(options, async (work) => {
    const configText = `${JSON.stringify(spec.config, undefined, 2)}\n`;
    await writeFile(join(work, "config.json"), configText);
    const files = await copyFiles(work, spec.files);
    const dense = await writeSafetensors(join(work, "dense.safetensors"), spec.dense);
    const codecs = await writeUnits(work, spec, options.onProgress);
    const { denseForms } = spec;
    const hashed = { dense, codecs, ...(denseForms === undefined ? undefined : { denseForms }) };
    index = expertIndexSchema.parse({
      version: storeVersion,
      modelDigest: modelDigest(configText, hashed),
      architecture: spec.architecture,
      ...sizesOf(spec.layers, spec.hidden),
      files,
      ...hashed,
    });
    await writeFile(join(work, "expert-index.json"), `${JSON.stringify(index)}\n`);
  });
  return index as ExpertIndex;
}
