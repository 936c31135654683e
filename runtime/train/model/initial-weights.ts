// The initial weights of a run: drawn from a seed, or read from a model store or a Hugging Face folder. Their hash ties a run to its
// weights.
import { createHash } from "node:crypto";
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { AppError } from "../../../crds/common.ts";
import type { CodecName } from "../../../crds/names.ts";
import { gaussian } from "../../kernels/random.ts";
import { asF32, type Weights } from "../../kernels/weights.ts";
import { openCheckpoint } from "../../weights/checkpoint.ts";
import { coarseLoss } from "../../weights/codecs/codec.ts";
import { codecFor } from "../../weights/codecs/index.ts";
import { statIfThere } from "../../weights/file.ts";
import { codecsOf, type ExpertIndex } from "../../weights/store.ts";
import { indexFile, openStore } from "../../weights/store-reader.ts";
import type { Checkpoint } from "../../weights/tensor-view.ts";
import { type Layout, movedTo, type Unit } from "./layout.ts";
import type { ModelSource } from "./model-source.ts";

export interface StartSettings {
  readonly init: "checkpoint" | "random";
  readonly seed: number;
  readonly initCodec?: CodecName | undefined;
}

/** The array for a unit's parameters, by part and index; undefined where not wanted. */
export type Wanted = (part: number, index: number) => Float32Array | undefined;

export interface Start {
  /** A text for people: "weights of a model store, experts in bf16". */
  readonly reported: string;
  /** A hash of the weights; undefined where the settings determine them. */
  readonly weights: string | undefined;
  fill(layout: Layout, wanted: Wanted): Promise<void>;
  close(): Promise<void>;
}

const deviationDefault = 0.02;

const refused = (message: string): AppError => new AppError(message, { code: "BadOption", operation: "opening the weights of a model" });

/**
 * Throws AppError `BadOption` for an unsuitable `initCodec`, and what the readers throw. Without `known` a folder's weights are not
 * hashed, and `weights` is undefined.
 */
export async function openStart(source: ModelSource, { init, seed, initCodec }: StartSettings, known = true): Promise<Start> {
  const drawn = init === "random";
  if (!drawn && (await statIfThere(join(source.dir, indexFile))) !== undefined) return storeStart(source, initCodec);
  if (initCodec !== undefined) throw refused(`--init-codec is ${initCodec}, which only the experts of a model store have; leave it out`);
  return drawn ? drawnStart(source, seed) : checkpointStart(source, known);
}

function drawnStart(source: ModelSource, seed: number): Start {
  return {
    reported: `weights drawn from seed ${seed}`,
    weights: undefined,
    fill: async (layout, wanted) => {
      for (const { unit, p } of wantedUnits(layout, wanted)) drawParameters(source, unit, seed, p);
    },
    async close() {},
  };
}

interface WantedUnit {
  readonly unit: Unit;
  readonly layer: number;
  readonly p: Float32Array;
}

function* wantedUnits({ parts }: Layout, wanted: Wanted): Generator<WantedUnit> {
  for (const [part, { units }] of parts.entries())
    for (const [index, unit] of units.entries()) {
      const p = wanted(part, index);
      if (p !== undefined) yield { unit: movedTo(unit, 0), layer: part - 1, p };
    }
}

/** Norms are 1, biases 0, matrices normal: a tensor's values depend only on seed and name. */
function drawParameters(source: ModelSource, unit: Unit, seed: number, p: Float32Array): void {
  for (const parameter of unit.parameters) p.set(drawn(source, parameter, seed), parameter.from);
}

export function drawn({ config }: ModelSource, { tensor, shape, size }: Unit["parameters"][number], seed: number): Float32Array {
  const { initializer_range: range } = config;
  const deviation = typeof range === "number" && range > 0 ? range : deviationDefault;
  if (shape.length > 1) return gaussian(seedOf(seed, tensor), size, deviation);
  return new Float32Array(size).fill(tensor.endsWith("bias") ? 0 : 1);
}

export function seedOf(seed: number, tensor: string): number {
  return createHash("sha256").update(`${seed} ${tensor}`).digest().readUInt32LE(0);
}

function codecToStartFrom(dir: string, index: ExpertIndex, asked: CodecName | undefined): CodecName {
  const have = codecsOf(index).toSorted((a, b) => codecFor(a).loss - codecFor(b).loss);
  const [best] = have;
  if (best === undefined || (asked !== undefined && !have.includes(asked)))
    throw refused(`--init-codec is ${asked}; ${dir} has experts in ${have.join(", ")}`);
  if (asked !== undefined || index.experts === 0 || codecFor(best).loss < coarseLoss) return asked ?? best;
  throw refused(
    `${dir} has its experts in ${have.join(", ")} alone, whose rounding training would start from; ` +
      `import the model again with --codec f32, or pass --init-codec ${best} to start from it all the same`,
  );
}

async function storeStart(source: ModelSource, asked: CodecName | undefined): Promise<Start> {
  const store = await openStore(source.dir);
  try {
    const codec = codecToStartFrom(source.dir, store.index, asked);
    return {
      reported: `weights of a model store, experts in ${codec}`,
      weights: `${store.index.modelDigest} in ${codec}`,
      async fill(layout, wanted) {
        for (const { unit, layer, p } of wantedUnits(layout, wanted)) {
          const weights: Record<string, Weights[string]> = {};
          if (unit.expert === undefined) for (const { name } of unit.parameters) weights[name] = await store.readDense(name);
          else Object.assign(weights, store.decodeUnit(await store.readUnit(layer, unit.expert, codec), codec, layer, unit.expert));
          copyUnit(source, unit, (name) => weights[name] && asF32(weights[name]), p);
        }
      },
      close: () => store.close(),
    };
  } catch (caught) {
    await store.close();
    throw caught;
  }
}

/** Hashes every byte: fine-tuned siblings share names, shapes, sizes and often some tensors. */
const weightsOf = (dir: string, checkpoint: Checkpoint): Promise<string> =>
  digestOfFolder(dir, async () => {
    const hash = createHash("sha256");
    for (const name of checkpoint.names.toSorted()) {
      hash.update(`${name} ${checkpoint.form(name)} ${checkpoint.shape(name)}\n`);
      for await (const piece of checkpoint.pieces(name)) hash.update(piece);
    }
    return hash.digest("hex");
  });

async function checkpointStart(source: ModelSource, known: boolean): Promise<Start> {
  const checkpoint = await openCheckpoint(source.dir);
  try {
    return {
      reported: "weights of a Hugging Face folder",
      weights: known ? await weightsOf(source.dir, checkpoint) : undefined,
      async fill(layout, wanted) {
        for (const { unit, p } of wantedUnits(layout, wanted)) {
          const values: Record<string, Float32Array> = {};
          for (const { name, tensor } of unit.parameters) values[name] = await checkpoint.read(tensor);
          copyUnit(source, unit, (name) => values[name], p);
        }
      },
      close: () => checkpoint.close(),
    };
  } catch (caught) {
    await checkpoint.close();
    throw caught;
  }
}

function copyUnit({ dir }: ModelSource, unit: Unit, valuesOf: (name: string) => Float32Array | undefined, p: Float32Array): void {
  for (const { name, tensor, from, size } of unit.parameters) {
    const values = valuesOf(name);
    if (values?.length !== size)
      throw new AppError(`${dir}: tensor "${tensor}" has ${values?.length ?? 0} values, the model wants ${size}; import the model again`, {
        code: "BadTensor",
      });
    p.set(values, from);
  }
}

const foldersMax = 4;

const kept = new Map<string, { readonly files: string; readonly digest: string }>();

/** Weights lie in the folder itself; subfolders may change during a run. */
const ofWeights = /\.(safetensors|json)$/;

async function filesOf(dir: string): Promise<string> {
  const names = (await readdir(dir)).filter((name) => ofWeights.test(name)).toSorted();
  const facts = await Promise.all(
    names.map(async (name) => {
      const found = await stat(join(dir, name), { bigint: true }).catch((cause: NodeJS.ErrnoException) => {
        if (cause.code === "ENOENT") return undefined; // Deleted since it was listed, or a broken link.
        throw cause;
      });
      return [name, found?.ino, found?.size, found?.mtimeNs, found?.ctimeNs].join(" ");
    }),
  );
  return facts.join("\n");
}

/** The cached digest of a folder's weights, or a new one if files changed: every world asks for it. */
export async function digestOfFolder(dir: string, compute: () => Promise<string>): Promise<string> {
  const files = await filesOf(dir);
  const known = kept.get(dir);
  if (known?.files === files) return known.digest;
  const digest = await compute();
  kept.delete(dir);
  if ((await filesOf(dir)) === files) kept.set(dir, { files, digest });
  const [oldest] = kept.keys();
  if (kept.size > foldersMax && oldest !== undefined) kept.delete(oldest);
  return digest;
}
