// Writes a model store as a stream, with a few experts in memory.
import { copyFile, type FileHandle, open, readFile, writeFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import type { CodecName } from "../../crds/names.ts";
import type { ExpertMatrices, UnitShape } from "./codecs/codec.ts";
import { type EncodingPlan, planEncoding, UnitEncoders, type UnitForm, unitsAsGiven } from "./codecs/encode.ts";
import { codecFor } from "./codecs/index.ts";
import { modelDigest, sha256Hex } from "./digest.ts";
import { type FolderTarget, writeFolder } from "./model-folder.ts";
import { type TensorToWrite, writeAll, writeSafetensors } from "./safetensors-writer.ts";
import {
  type ExpertIndex,
  expertIndexSchema,
  formsOfUnit,
  type LayerForms,
  type LayerShape,
  sizesOf,
  storeVersion,
  unitAlignment,
  unitShapeOf,
} from "./store.ts";

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
  /** Codecs with `asGiven` have them, as in the index. */
  readonly forms?: readonly LayerForms[];
  /**
   * f32 or as stored, in memory that the writer takes over, or the units themselves, one for each codec; called once per expert, layer by
   * layer, one at a time.
   */
  expert(layer: number, expert: number): Promise<ExpertMatrices | readonly Uint8Array[]>;
  /** Additional files: name in the store to path. */
  readonly files: ReadonlyMap<string, string>;
}

export interface WriteOptions extends FolderTarget {
  /** Default: on as many threads as there are CPUs, for small models on none. */
  readonly encoding?: EncodingPlan;
  readonly onProgress?: (done: { readonly units: number; readonly of: number; readonly bytes: number }) => void;
}

type CodecEntry = NonNullable<ExpertIndex["codecs"][CodecName]>;
type Unit = CodecEntry["units"][number][number];

function formsOf({ codecs, layers, forms }: StoreSpec, layer: number, expert: number): readonly UnitForm[] {
  const matrices = layers[layer]?.matrices ?? [];
  const own = formsOfUnit({ forms }, layer, expert);
  return codecs.map((name) => ({ name, parts: unitShapeOf(codecFor(name).asGiven ? own : undefined, matrices) }));
}

const isUnits = (given: ExpertMatrices | readonly Uint8Array[]): given is readonly Uint8Array[] => Array.isArray(given);

interface CodecFile {
  readonly name: CodecName;
  readonly file: string;
  readonly handle: FileHandle;
  readonly units: CodecEntry["units"];
  end: number;
}

/** Gives the layer's next unit its place; its hash follows. */
function nextUnit(codec: CodecFile, layer: number, parts: UnitShape): Unit {
  const unit = { offset: codec.end, bytes: codecFor(codec.name).unitBytes(parts), sha256: "" };
  codec.end += Math.ceil(unit.bytes / unitAlignment) * unitAlignment;
  codec.units[layer]?.push(unit);
  return unit;
}

/** Runs a few works side by side. `start` and `end` throw the first failure. */
class SideBySide {
  readonly #atOnce: number;
  readonly #running = new Set<Promise<void>>();
  #failure: { readonly caught: unknown } | undefined;

  constructor(atOnce: number) {
    this.#atOnce = atOnce;
  }

  /** Returns when there is room for another. */
  async start(work: () => Promise<void>): Promise<void> {
    const one = work()
      .catch((caught: unknown) => {
        this.#failure ??= { caught };
      })
      .finally(() => this.#running.delete(one));
    this.#running.add(one);
    await this.#until(this.#atOnce - 1);
  }

  end(): Promise<void> {
    return this.#until(0);
  }

  async settled(): Promise<void> {
    await Promise.all(this.#running);
  }

  async #until(most: number): Promise<void> {
    while (this.#running.size > most) await Promise.race(this.#running);
    if (this.#failure) throw this.#failure.caught;
  }
}

async function writeUnits(work: string, spec: StoreSpec, { encoding, onProgress }: WriteOptions): Promise<ExpertIndex["codecs"]> {
  const out = await Promise.all(
    spec.codecs.map(async (name): Promise<CodecFile> => {
      const file = `experts-${name}.bin`;
      return { name, file, end: 0, handle: await open(join(work, file), "wx"), units: [] };
    }),
  );
  const of = spec.layers.reduce((sum, { experts }) => sum + experts, 0);
  const layers = spec.layers.map(({ experts }, layer) => Array.from({ length: experts }, (_, expert) => formsOf(spec, layer, expert)));
  const plan = encoding ?? planEncoding(layers, availableParallelism());
  const encoders = new UnitEncoders(plan.threads);
  const works = new SideBySide(plan.atOnce);
  let [written, done] = [0, 0];
  try {
    for (const [layer, experts] of layers.entries()) {
      for (const codec of out) codec.units.push([]);
      for (const [expert, forms] of experts.entries()) {
        const given = await spec.expert(layer, expert);
        const units = out.map((codec, i) => nextUnit(codec, layer, forms[i]?.parts ?? []));
        await works.start(async () => {
          const encoded = await (isUnits(given) ? unitsAsGiven(given, forms) : encoders.encode({ matrices: given, codecs: forms }));
          for (const [i, { bytes, sha256 }] of encoded.entries()) {
            const unit = units[i] as Unit;
            await writeAll((out[i] as CodecFile).handle, bytes, unit.offset);
            unit.sha256 = sha256;
            written += bytes.length;
          }
          done += 1;
          onProgress?.({ units: done, of, bytes: written });
        });
      }
    }
    await works.end();
    for (const codec of out) {
      await codec.handle.truncate(codec.end);
      await codec.handle.sync();
    }
  } finally {
    await works.settled();
    await encoders.close();
    for (const codec of out) await codec.handle.close();
  }
  return Object.fromEntries(
    out.map(({ name, file, units }) => {
      const entry = { file, units };
      return [name, codecFor(name).asGiven && spec.forms ? { ...entry, forms: [...spec.forms] } : entry];
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
    const codecs = await writeUnits(work, spec, options);
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
