// Reads a model store and checks each tensor and unit against its SHA-256.
import { join } from "node:path";
import { AppError } from "../../crds/common.ts";
import { type CodecName, defaultCodec } from "../../crds/names.ts";
import type { WeightData } from "../kernels/weights.ts";
import { knownArchitectures } from "../models/index.ts";
import { describeGrid } from "../placement/grid.ts";
import { checkUnitLength } from "./codecs/codec.ts";
import { codecFor } from "./codecs/index.ts";
import { matchesAgain, modelDigest, sha256Apart } from "./digest.ts";
import { openDirectFile } from "./direct-file.ts";
import { openFile, type RandomFile, readTextFile, statIfThere } from "./file.ts";
import { openSafetensors, type SafetensorsFile, storedFormOfDtype, type TensorInfo, widenTensor } from "./safetensors.ts";
import {
  codecsOf,
  type ExpertIndex,
  expertIndexSchema,
  formsOfUnit,
  type LayerShape,
  layerShapesOf,
  listedExperts,
  type ModelStore,
  sizesOf,
  storeGrid,
  unitAlignment,
  unitShapeOf,
} from "./store.ts";
import { blockOf, type StoredForm, storedWeight } from "./stored.ts";

export const indexFile = "expert-index.json";
/** Fits half a million units; parsed JSON may take ten times its text. */
const jsonBytesMax = 64 * 1024 * 1024;
/** Fifty times the longest known config.json. */
const configBytesMax = 4 * 1024 * 1024;
const configDepthMax = 100;

function notFound(dir: string, what: string): AppError {
  return new AppError(
    `${dir}: ${what}; make a store with "enodia model import" or "enodia model upcycle" and point the model path at its folder`,
    {
      code: "ModelNotFound",
      operation: "opening the model store",
    },
  );
}

function corrupt(dir: string, what: string): AppError {
  return new AppError(`${dir}: ${what}; the store is damaged, import the model again`, {
    code: "CorruptShard",
    operation: "reading the model store",
  });
}

/** Bounded JSON of a model folder; errors name the file. */
export async function readJson(path: string, code: string): Promise<unknown> {
  return (await readJsonText(path, jsonBytesMax, code)).json;
}

export async function readConfig(dir: string, code: string): Promise<unknown> {
  return (await readConfigText(dir, code)).json;
}

async function readConfigText(dir: string, code: string): ReturnType<typeof readJsonText> {
  const path = join(dir, "config.json");
  const read = await readJsonText(path, configBytesMax, code);
  if (nestsTooDeeply(read.json)) throw new AppError(`${path}: nests more than ${configDepthMax} levels`, { code });
  return read;
}

/** Walks level by level, since recursion might exhaust the stack. */
function nestsTooDeeply(json: unknown): boolean {
  let level: readonly unknown[] = [json];
  for (let depth = 0; level.length > 0; depth++) {
    if (depth > configDepthMax) return true;
    level = level.flatMap((value) => (typeof value === "object" && value !== null ? Object.values(value) : []));
  }
  return false;
}

async function readJsonText(path: string, bytesMax: number, code: string): Promise<{ readonly text: string; readonly json: unknown }> {
  const text = await readTextFile(path, bytesMax, code);
  try {
    return { text, json: JSON.parse(text) };
  } catch (cause) {
    throw new AppError(`${path}: is not JSON`, { code, cause }); // the cause quotes it, and a download may be anybody's answer
  }
}

async function readIndex(dir: string): Promise<ExpertIndex> {
  const info = await statIfThere(dir);
  if (info === undefined) throw notFound(dir, "no such folder");
  if (!info.isDirectory()) throw notFound(dir, "is not a folder");
  const path = join(dir, indexFile);
  if (!(await statIfThere(path))) throw notFound(dir, `has no ${indexFile}, so it is no model store`);
  const parsed = expertIndexSchema.safeParse(await readJson(path, "BadModelIndex"));
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    // This version may not know the store's codecs.
    const again = issue?.path[0] === "codecs" ? `import the model again with --codec ${defaultCodec}` : "import the model again";
    throw new AppError(`${path}: field ${issue?.path.join(".") || "(root)"}: ${issue?.message ?? "invalid"}; ${again}`, {
      code: "BadModelIndex",
    });
  }
  return parsed.data;
}

function checkIndex(dir: string, index: ExpertIndex): void {
  if (!knownArchitectures.includes(index.architecture)) {
    throw new AppError(`${dir}: architecture ${index.architecture} is not supported; supported are ${knownArchitectures.join(", ")}`, {
      code: "UnknownArchitecture",
    });
  }
  const shapes = layerShapesOf(index);
  checkShapes(dir, index, shapes);
  for (const name of codecsOf(index)) checkUnits(dir, index, name, shapes);
  if (Object.keys(index.codecs).length === 0) throw corrupt(dir, `${indexFile} lists no codec`);
}

function checkShapes(dir: string, index: ExpertIndex, shapes: readonly LayerShape[]): void {
  if ((index.ffn === undefined) === (index.layerShapes === undefined)) throw corrupt(dir, `${indexFile} needs either ffn or layerShapes`);
  if (shapes.length !== index.layers) throw corrupt(dir, `${indexFile} describes ${shapes.length} layers of ${index.layers}`);
  for (const { experts, topK, matrices } of shapes) {
    if (topK > experts) throw corrupt(dir, `top-k ${topK} of only ${experts} experts`);
    if (experts > 0 && matrices.length === 0) throw corrupt(dir, `${indexFile} describes experts without matrices`);
  }
  const { experts, topK } = sizesOf(shapes, index.hidden);
  if (experts !== index.experts || topK !== index.topK)
    throw corrupt(dir, `${indexFile} has layers of up to ${experts} experts and top-${topK}, not ${index.experts} and ${index.topK}`);
}

function checkUnits(dir: string, index: ExpertIndex, name: CodecName, shapes: readonly LayerShape[]): void {
  const units = index.codecs[name]?.units ?? [];
  if (units.length !== index.layers) throw corrupt(dir, `${indexFile} lists ${units.length} layers of ${name} units, not ${index.layers}`);
  units.forEach((layer, l) => {
    const { experts, matrices } = shapes[l] as LayerShape;
    if (layer.length !== experts) throw corrupt(dir, `${indexFile} lists a layer without ${experts} ${name} units`);
    const listed = listedExperts(index.codecs[name]?.forms?.[l]);
    if ((listed ?? experts) !== experts)
      throw corrupt(dir, `${indexFile} lists the forms of ${listed} experts of layer ${l}, not of ${experts}`);
    layer.forEach(({ bytes }, expert) => {
      const forms = formsOfUnit(index.codecs[name] ?? {}, l, expert);
      checkForms(dir, forms?.length ?? 0, codecFor(name).asGiven ? matrices.length : 0, `expert ${expert} of layer ${l}`);
      const want = codecFor(name).unitBytes(unitShapeOf(forms, matrices));
      if (bytes !== want) throw corrupt(dir, `${indexFile}: a ${name} unit has ${bytes} bytes, not ${want}`);
    });
  });
  const ordered = units.flat().toSorted((a, b) => a.offset - b.offset);
  ordered.forEach((unit, i) => {
    const before = ordered[i - 1];
    if (unit.offset % unitAlignment !== 0)
      throw corrupt(dir, `${indexFile}: unit offset ${unit.offset} is not a multiple of ${unitAlignment}`);
    if (before && before.offset + before.bytes > unit.offset) throw corrupt(dir, `${indexFile}: units overlap at ${unit.offset}`);
  });
}

/** A codec with `asGiven` needs a form for every matrix, others none. */
function checkForms(dir: string, have: number, want: number, unit: string): void {
  if (have !== want) throw corrupt(dir, `${indexFile} names the forms of ${have} matrices of ${unit}, not of ${want}`);
}

/** Throws AppError `CodecNotFound`. */
function codecEntry(dir: string, { codecs }: ExpertIndex, name: CodecName): NonNullable<ExpertIndex["codecs"][CodecName]> {
  const entry = codecs[name];
  if (entry) return entry;
  const have = Object.keys(codecs).join(", ");
  throw new AppError(
    `${dir}: holds no ${name} experts, only ${have}; set spec.runtime.expertCodec to one of those or import with --codec ${name}`,
    { code: "CodecNotFound" },
  );
}

async function openUnits(dir: string, index: ExpertIndex, name: CodecName, rereads: boolean): Promise<RandomFile> {
  return (rereads ? openDirectFile : openFile)(join(dir, codecEntry(dir, index, name).file), "CorruptShard");
}

interface DenseTensor {
  readonly info: TensorInfo;
  readonly bytes: Uint8Array;
  readonly blocks: StoredForm | undefined;
}

/** The form that `denseWeight` gives. */
function denseInfo(dir: string, name: string, { info, blocks }: Omit<DenseTensor, "bytes">) {
  const [rows = 0, width = 0] = info.shape;
  if (blocks === undefined)
    return { form: (info.shape.length < 2 ? undefined : storedFormOfDtype(info.dtype)) ?? "f32", shape: info.shape };
  const block = blockOf(blocks);
  if (info.dtype !== "U8" || info.shape.length !== 2 || width % block.bytes !== 0)
    throw corrupt(dir, `dense tensor "${name}" is ${info.dtype} [${info.shape.join(", ")}], which are no rows of ${blocks}`);
  return { form: blocks, shape: [rows, (width / block.bytes) * block.values] };
}

function denseWeight(dir: string, name: string, { info, bytes, blocks }: DenseTensor): WeightData {
  const { form, shape } = denseInfo(dir, name, { info, blocks });
  if (blocks === undefined && form === "f32") return { form, shape, data: widenTensor(info, bytes) };
  return storedWeight(form, shape, bytes);
}

function blocksOf({ denseForms = {} }: ExpertIndex, name: string): StoredForm | undefined {
  return Object.hasOwn(denseForms, name) ? denseForms[name] : undefined;
}

function denseFormsIn(index: ExpertIndex, { tensors }: SafetensorsFile): readonly StoredForm[] {
  const forms = [...tensors].flatMap(([name, { dtype, shape }]) =>
    shape.length < 2 ? [] : (blocksOf(index, name) ?? storedFormOfDtype(dtype) ?? []),
  );
  return [...new Set(forms)];
}

function denseBytesIn(index: ExpertIndex, { tensors }: SafetensorsFile, bits: 8 | 16 | 32): number {
  const sizes = [...tensors].map(([name, { shape, begin, end }]) => {
    const asStored = bits === 16 || blocksOf(index, name) !== undefined;
    return asStored ? end - begin : (shape.reduce((values, size) => values * size, 1) * bits) / 8;
  });
  return Math.ceil(sizes.reduce((sum, bytes) => sum + bytes, 0));
}

function denseReader(dir: string, index: ExpertIndex, dense: SafetensorsFile): ModelStore["readDense"] {
  return async (name) => {
    const info = dense.tensors.get(name);
    if (!info) throw new AppError(`${dir}: the dense part has no tensor "${name}"`, { code: "MissingTensor" });
    const bytes = await dense.readRaw(name);
    if ((await sha256Apart(bytes)) !== index.dense[name]) throw corrupt(dir, `dense tensor "${name}" does not match its hash`);
    return denseWeight(dir, name, { info, bytes, blocks: blocksOf(index, name) });
  };
}

const hasHash = async (bytes: Uint8Array, sha256: string): Promise<boolean> => (await sha256Apart(bytes)) === sha256;

/** Checks each unit against the index. */
export function unitReader(
  dir: string,
  index: ExpertIndex,
  file: (codec: CodecName) => Promise<Pick<RandomFile, "read">>,
  matches = hasHash,
): ModelStore["readUnit"] {
  return async (layer, expert, codec) => {
    const units = await file(codec);
    const unit = index.codecs[codec]?.units[layer]?.[expert];
    if (!unit) {
      throw new AppError(`${dir}: no expert ${expert} in layer ${layer}; the model has ${describeGrid(storeGrid(index))}`, {
        code: "ExpertNotFound",
      });
    }
    const bytes = await units.read(unit.offset, unit.bytes);
    if (!(await matches(bytes, unit.sha256))) throw corrupt(dir, `expert ${expert} of layer ${layer} (${codec}) does not match its hash`);
    return bytes;
  };
}

/**
 * Reads index and header. Throws AppError ModelNotFound, BadModelIndex, UnknownArchitecture, BadSafetensors or CorruptShard. `rereads`:
 * units are read time and again (DECISIONS.md 5).
 */
export async function openStore(dir: string, { rereads = false } = {}): Promise<ModelStore> {
  const index = await readIndex(dir);
  checkIndex(dir, index);
  const { text, json: config } = await readConfigText(dir, "BadModelConfig");
  if (modelDigest(text, index) !== index.modelDigest)
    throw corrupt(dir, `config.json or ${indexFile} was changed after the import: the model digest does not match`);
  const dense = await openSafetensors(join(dir, "dense.safetensors"));
  const layerShapes = layerShapesOf(index);
  const files = new Map<CodecName, Promise<RandomFile>>();
  const units = (codec: CodecName): Promise<RandomFile> => {
    const open = files.get(codec) ?? openUnits(dir, index, codec, rereads);
    files.set(codec, open);
    open.catch(() => files.delete(codec)); // the file may be put back
    return open;
  };
  const shapeOf = (codec: CodecName, layer: number, expert: number) =>
    unitShapeOf(formsOfUnit(codecEntry(dir, index, codec), layer, expert), layerShapes[layer]?.matrices ?? []);
  return {
    dir,
    index,
    config,
    denseNames: dense.names,
    denseForms: denseFormsIn(index, dense),
    denseBytes: (bits) => denseBytesIn(index, dense, bits),
    denseInfo(name) {
      const info = dense.tensors.get(name);
      return info && denseInfo(dir, name, { info, blocks: blocksOf(index, name) });
    },
    readDense: denseReader(dir, index, dense),
    readUnit: unitReader(dir, index, units, rereads ? matchesAgain() : hasHash),
    layerShapes,
    decodeUnit(unit, codec, layer, expert) {
      const matrices = shapeOf(codec, layer, expert);
      checkUnitLength(codecFor(codec), unit, matrices);
      return codecFor(codec).decode(unit, matrices);
    },
    unitForms: (codec, layer, expert) => codecFor(codec).forms(shapeOf(codec, layer, expert)),
    async close() {
      await dense.close();
      for (const open of files.values()) await (await open).close();
    },
  };
}
