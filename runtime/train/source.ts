// The model that training starts from: a model store, a Hugging Face folder, or a folder with config.json and tokenizer alone, whose
// parameters are drawn from a seed. Shell.
import { createHash } from "node:crypto";
import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { AppError } from "../../crds/common.ts";
import { checkProgram } from "../kernels/check-program.ts";
import { gaussian } from "../kernels/random.ts";
import type { ModelProgram } from "../kernels/segment.ts";
import { asF32, type Weights } from "../kernels/weights.ts";
import type { ModelFamily } from "../models/family.ts";
import { familyOf } from "../models/index.ts";
import { companionFiles } from "../tools/files.ts";
import { openCheckpoint } from "../weights/checkpoint.ts";
import { codecsOf } from "../weights/store.ts";
import { indexFile, openStore, readConfig } from "../weights/store-reader.ts";
import { type Layout, type Unit, unitsOf } from "./layout.ts";
import type { Init } from "./settings.ts";

export interface ModelSource {
  readonly dir: string;
  readonly config: Readonly<Record<string, unknown>>;
  readonly family: ModelFamily;
  readonly program: ModelProgram;
  /** Files beside the weights: name to path. */
  readonly files: ReadonlyMap<string, string>;
  /** SHA-256 of tokenizer.json. */
  readonly tokenizerDigest: string;
}

/** Standard deviation of matrices that are drawn, where config.json has no `initializer_range`. */
const deviationDefault = 0.02;

export async function tokenizerDigest(dir: string): Promise<string> {
  return createHash("sha256")
    .update(await readFile(join(dir, "tokenizer.json")))
    .digest("hex");
}

export async function openSource(dir: string): Promise<ModelSource> {
  const config = (await readConfig(dir, "ModelNotFound")) as Readonly<Record<string, unknown>>;
  const family = familyOf(config);
  const program = family.program(config);
  checkProgram(program);
  const files = await companionFiles(dir);
  return { dir, config, family, program, files, tokenizerDigest: await tokenizerDigest(dir) };
}

/** Fills the array of parameters. */
export async function fillParameters(
  source: ModelSource,
  layout: Layout,
  init: { readonly kind: Init; readonly seed: number },
  p: Float32Array,
) {
  if (init.kind === "random") return drawParameters(source, layout, init.seed, p);
  const isStore = (await stat(join(source.dir, indexFile)).catch(() => undefined)) !== undefined;
  return isStore ? readStore(source, layout, p) : readCheckpoint(source, layout, p);
}

/** Norms are 1, biases 0, matrices normal: the same numbers for the same seed, whatever else the model has. */
function drawParameters({ config }: ModelSource, layout: Layout, seed: number, p: Float32Array): void {
  const { initializer_range: range } = config;
  const deviation = typeof range === "number" && range > 0 ? range : deviationDefault;
  for (const { tensor, shape, from, size } of unitsOf(layout).flatMap(({ parameters }) => parameters)) {
    if (shape.length > 1) p.set(gaussian(seedOf(seed, tensor), size, deviation), from);
    else p.fill(tensor.endsWith("bias") ? 0 : 1, from, from + size);
  }
}

function seedOf(seed: number, tensor: string): number {
  return createHash("sha256").update(`${seed} ${tensor}`).digest().readUInt32LE(0);
}

async function readStore(source: ModelSource, layout: Layout, p: Float32Array): Promise<void> {
  const store = await openStore(source.dir);
  try {
    const codecs = codecsOf(store.index);
    const codec = codecs.includes("f32") ? "f32" : codecs[0];
    for (const [index, { units }] of layout.parts.entries()) {
      for (const unit of units) {
        const layer = index - 1;
        const weights: Record<string, Weights[string]> = {};
        if (unit.expert === undefined) for (const { name } of unit.parameters) weights[name] = await store.readDense(name);
        else if (codec !== undefined)
          Object.assign(weights, store.decodeUnit(await store.readUnit(layer, unit.expert, codec), codec, layer));
        copyUnit(source, unit, (name) => weights[name] && asF32(weights[name]), p);
      }
    }
  } finally {
    await store.close();
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

async function readCheckpoint(source: ModelSource, layout: Layout, p: Float32Array): Promise<void> {
  const checkpoint = await openCheckpoint(source.dir);
  try {
    for (const unit of unitsOf(layout)) {
      const values: Record<string, Float32Array> = {};
      for (const { name, tensor } of unit.parameters) values[name] = await checkpoint.read(tensor);
      copyUnit(source, unit, (name) => values[name], p);
    }
  } finally {
    await checkpoint.close();
  }
}
