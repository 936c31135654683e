// A GGUF model of one or more files, under GGUF's own names. Opening checks headers and tensor places.
import { AppError } from "../../crds/common.ts";
import { openFile, type RandomFile } from "./file.ts";
import { badGguf, type GgufHeader, type GgufTensor, type GgufValue, NeedMore, parseGgufHeader } from "./gguf-header.ts";
import type { TensorSource } from "./safetensors.ts";
import { blockOf, type StoredForm, storedFormOf, storedForms } from "./stored.ts";
import { checkedRows, type RowRange, type StoredRows } from "./tensor-view.ts";

const firstReadBytes = 8 * 1024 * 1024;
/** Three times the longest known header; parsed strings take about as much again. */
const headerBytesMax = 64 * 1024 * 1024;

export interface GgufFile extends TensorSource {
  readonly path: string;
  readonly metadata: ReadonlyMap<string, GgufValue>;
  /** Logged as "q4_1, q8_0, f32". */
  readonly formats: readonly StoredForm[];
  form(name: string): StoredForm | undefined;
  readRows(name: string, range: RowRange): Promise<StoredRows>;
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
  readonly file: RandomFile;
  readonly tensor: GgufTensor;
  readonly form: StoredForm;
  readonly begin: number;
  readonly bytes: number;
}

function place(file: RandomFile, tensor: GgufTensor, header: GgufHeader): Placed {
  const { path } = file;
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
  if (!Number.isSafeInteger(values) || begin + bytes > file.size) {
    throw badGguf(path, `tensor "${tensor.name}" ends at byte ${begin + bytes}, past the file's ${file.size}`);
  }
  return { file, tensor, form, begin, bytes };
}

/** Refuses overlaps and duplicates. */
function placeAll(file: RandomFile, header: GgufHeader, placed: Map<string, Placed>): void {
  const own = header.tensors.map((tensor) => place(file, tensor, header));
  for (const entry of own) {
    const { name } = entry.tensor;
    if (placed.has(name)) throw badGguf(file.path, `tensor "${name}" appears twice`);
    placed.set(name, entry);
  }
  let end = 0;
  for (const { tensor, begin, bytes } of own.sort((a, b) => a.begin - b.begin)) {
    if (begin < end) throw badGguf(file.path, `tensor "${tensor.name}" overlaps the one before it`);
    end = begin + bytes;
  }
}

type Open = typeof openFile;

/** `files` gets every opened file, even when this throws. */
async function openParts(
  path: string,
  open: Open,
  files: RandomFile[],
): Promise<Pick<GgufHeader, "metadata"> & { placed: Map<string, Placed> }> {
  const first = await open(path, "BadGguf");
  files.push(first);
  const header = await readHeader(first);
  const placed = new Map<string, Placed>();
  placeAll(first, header, placed);
  const parts = splitFiles(path, header.metadata);
  for (const [index, part] of parts.entries()) {
    if (index === 0) continue;
    const file = await open(part, "BadGguf");
    files.push(file);
    const more = await readHeader(file);
    checkPart(part, more.metadata, index, parts.length);
    placeAll(file, more, placed);
  }
  checkTensors(path, header.metadata, placed.size);
  return { metadata: header.metadata, placed };
}

const shapeOf = ({ tensor }: Placed): readonly number[] => tensor.dimensions.toReversed();

async function readRows({ file, tensor, form, begin, bytes }: Placed, { first, rows }: RowRange): Promise<StoredRows> {
  const columns = tensor.dimensions[0] as number;
  const block = blockOf(form);
  const rowBytes = (columns / block.values) * block.bytes;
  if (!(first >= 0 && rows >= 0 && (first + rows) * rowBytes <= bytes))
    throw new AppError(`${file.path}: tensor "${tensor.name}" has no rows ${first}..${first + rows}`, { code: "ShapeMismatch" });
  const stored = await file.read(begin + first * rowBytes, rows * rowBytes);
  return checkedRows(file.path, tensor.name, { form, bytes: stored, shape: tensor.dimensions.toReversed(), first: first * columns });
}

export async function openGguf(path: string, open: Open = openFile): Promise<GgufFile> {
  const files: RandomFile[] = [];
  const close = async (): Promise<void> => {
    for (const file of files) await file.close();
  };
  try {
    const { metadata, placed } = await openParts(path, open, files);
    const find = (name: string): Placed => {
      const found = placed.get(name);
      if (!found) throw new AppError(`${path}: has no tensor "${name}"`, { code: "MissingTensor", operation: "reading GGUF" });
      return found;
    };
    const shape = (name: string) => placed.get(name) && shapeOf(find(name));
    return {
      path,
      metadata,
      formats: [...new Set([...placed.values()].map(({ form }) => form))],
      names: [...placed.keys()],
      shape,
      form: (name) => placed.get(name)?.form,
      readRows: (name, range) => readRows(find(name), range),
      async read(name) {
        const found = find(name);
        const rows = found.tensor.dimensions.slice(1).reduce((product, size) => product * size, 1);
        return (await readRows(found, { first: 0, rows })).values();
      },
      close,
    };
  } catch (caught) {
    await close();
    throw caught;
  }
}

/** Bounds what a header may claim. */
const splitFilesMax = 512;

const splitName = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/;

function count(path: string, metadata: ReadonlyMap<string, GgufValue>, key: string, most: number): number {
  const value = metadata.get(key) ?? 0;
  const number = typeof value === "bigint" ? Number(value) : value;
  if (typeof number === "number" && Number.isInteger(number) && number >= 0 && number <= most) return number;
  throw badGguf(path, `${key} is ${String(value)}, not a whole number of at most ${most}`);
}

/** Throws unless `path` is the first file; the result is in order. */
function splitFiles(path: string, metadata: ReadonlyMap<string, GgufValue>): readonly string[] {
  const files = count(path, metadata, "split.count", splitFilesMax);
  if (files <= 1) return [path];
  const match = splitName.exec(path);
  if (!match || Number(match[3]) !== files) {
    throw new AppError(
      `${path}: is one of ${files} files, which are called NAME-00001-of-${five(files)}.gguf; give them these names again`,
      {
        code: "BadGguf",
      },
    );
  }
  const name = (index: number): string => `${match[1]}-${five(index + 1)}-of-${five(files)}.gguf`;
  if (count(path, metadata, "split.no", splitFilesMax) !== 0 || Number(match[2]) !== 1)
    throw new AppError(`${path}: is not the first of ${files} files; give ${name(0)}`, { code: "BadGguf" });
  return Array.from({ length: files }, (_, index) => name(index));
}

const five = (index: number): string => String(index).padStart(5, "0");

function checkPart(path: string, metadata: ReadonlyMap<string, GgufValue>, index: number, files: number): void {
  const [no, of] = [count(path, metadata, "split.no", splitFilesMax), count(path, metadata, "split.count", splitFilesMax)];
  if (no !== index || of !== files)
    throw badGguf(path, `says that it is part ${no + 1} of ${of}, where part ${index + 1} of ${files} is expected`);
}

/** Throws when tensors that the first file announces are missing. */
function checkTensors(path: string, metadata: ReadonlyMap<string, GgufValue>, found: number): void {
  if (!metadata.has("split.tensors.count")) return;
  const announced = count(path, metadata, "split.tensors.count", Number.MAX_SAFE_INTEGER);
  if (announced !== found) throw badGguf(path, `announces ${announced} tensors in all files, ${found} are there`);
}
