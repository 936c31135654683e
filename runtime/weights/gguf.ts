// A GGUF file as a tensor source: header parsed and every tensor's place checked on opening, data read on demand.
// Names and layout are GGUF's own; runtime/tools/gguf-llama.ts turns them into Hugging Face's.
import { AppError } from "../../crds/common.ts";
import { openFile, type RandomFile } from "./file.ts";
import { badGguf, type GgufHeader, type GgufTensor, type GgufValue, NeedMore, parseGgufHeader } from "./gguf-header.ts";
import type { TensorSource } from "./safetensors.ts";
import { blockOf, type StoredForm, storedFormOf, storedForms, widenStored } from "./stored.ts";
import { checkWeights } from "./weight-check.ts";

const firstReadBytes = 8 * 1024 * 1024;
/** Three times the longest header known; strings of a parsed one take about as much again. */
const headerBytesMax = 64 * 1024 * 1024;

export interface GgufFile extends TensorSource {
  readonly path: string;
  readonly metadata: ReadonlyMap<string, GgufValue>;
  /** Names of the formats used, for logs: "q4_1, q8_0, f32". */
  readonly formats: readonly string[];
}

async function readHeader(file: RandomFile): Promise<GgufHeader> {
  for (let length = firstReadBytes; ; length *= 4) {
    const take = Math.min(length, file.size, headerBytesMax);
    try {
      return parseGgufHeader(file.path, await file.read(0, take), file.size);
    } catch (caught) {
      if (!(caught instanceof NeedMore)) throw caught;
      if (take === headerBytesMax) throw badGguf(file.path, `has a header of more than ${headerBytesMax} bytes`);
    }
  }
}

interface Placed {
  readonly tensor: GgufTensor;
  readonly form: StoredForm;
  readonly begin: number;
  readonly bytes: number;
}

function place(path: string, tensor: GgufTensor, header: GgufHeader, fileSize: number): Placed {
  const form = storedFormOf(tensor.type);
  if (form === undefined) {
    throw new AppError(`${path}: tensor "${tensor.name}" has GGML type ${tensor.type}; supported are ${storedForms.join(", ")}`, {
      code: "UnsupportedDtype",
    });
  }
  const block = blockOf(form);
  const values = tensor.dimensions.reduce((product, size) => product * size, 1);
  if ((tensor.dimensions[0] as number) % block.values !== 0)
    throw badGguf(path, `tensor "${tensor.name}" has rows that are no whole number of blocks`);
  const bytes = (values / block.values) * block.bytes;
  const begin = header.dataStart + tensor.offset;
  if (tensor.offset % header.alignment !== 0) throw badGguf(path, `tensor "${tensor.name}" is not aligned`);
  if (!Number.isSafeInteger(values) || begin + bytes > fileSize) {
    throw badGguf(path, `tensor "${tensor.name}" ends at byte ${begin + bytes}, past the file's ${fileSize}`);
  }
  return { tensor, form, begin, bytes };
}

function placeAll(path: string, header: GgufHeader, fileSize: number): ReadonlyMap<string, Placed> {
  const placed = new Map<string, Placed>();
  for (const tensor of header.tensors) {
    if (placed.has(tensor.name)) throw badGguf(path, `tensor "${tensor.name}" appears twice`);
    placed.set(tensor.name, place(path, tensor, header, fileSize));
  }
  let end = 0;
  for (const { tensor, begin, bytes } of [...placed.values()].sort((a, b) => a.begin - b.begin)) {
    if (begin < end) throw badGguf(path, `tensor "${tensor.name}" overlaps the one before it`);
    end = begin + bytes;
  }
  return placed;
}

export async function openGguf(path: string): Promise<GgufFile> {
  const file = await openFile(path, "BadGguf");
  try {
    const header = await readHeader(file);
    const placed = placeAll(path, header, file.size);
    const formats = new Set([...placed.values()].map(({ form }) => form));
    return {
      path,
      metadata: header.metadata,
      formats: [...formats],
      names: [...placed.keys()],
      shape: (name) => placed.get(name)?.tensor.dimensions.toReversed(),
      async read(name) {
        const found = placed.get(name);
        if (!found) throw new AppError(`${path}: has no tensor "${name}"`, { code: "MissingTensor", operation: "reading GGUF" });
        const bytes = await file.read(found.begin, found.bytes);
        const data = widenStored(found.form, bytes);
        checkWeights(path, `tensor "${name}"`, { shape: found.tensor.dimensions.toReversed(), data });
        return data;
      },
      close: () => file.close(),
    };
  } catch (caught) {
    await file.close();
    throw caught;
  }
}
