// Strict parser of an untrusted GGUF header (versions 2 and 3).
import { AppError } from "../../crds/common.ts";

export type GgufValue = number | bigint | string | boolean | readonly GgufValue[];

export interface GgufTensor {
  readonly name: string;
  readonly type: number;
  /** Fastest first, as stored. */
  readonly dimensions: readonly number[];
  /** Relative to the data section. */
  readonly offset: number;
}

export interface GgufHeader {
  readonly metadata: ReadonlyMap<string, GgufValue>;
  readonly tensors: readonly GgufTensor[];
  /** File offset of tensor data. */
  readonly dataStart: number;
  readonly alignment: number;
}

/** The prefix was too short; read more of the file and retry. */
export class NeedMore extends Error {}

const magic = 0x46554747;
const depthMax = 3;
/** The sum of all metadata arrays; the largest known vocabularies need 1.3 million. */
const arrayValuesMax = 4_000_000;
const keysMax = 100_000;
const tensorsMax = 200_000;
const dimensionsMax = 4;
const textBytesMax = 16 * 1024 * 1024;
const alignmentMax = 1 << 20;
const stringType = 8;
const arrayType = 9;
const scalarBytes: Readonly<Record<number, number>> = { 0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8 };

export function badGguf(path: string, what: string): AppError {
  return new AppError(`${path}: ${what}; download or convert the file again`, { code: "BadGguf", operation: "reading GGUF" });
}

class Cursor {
  readonly path: string;
  readonly fileSize: number;
  readonly #view: DataView;
  readonly #bytes: Uint8Array;
  readonly #text = new TextDecoder("utf-8", { fatal: true });
  #arrayValues = 0;
  at = 0;

  constructor(path: string, bytes: Uint8Array, fileSize: number) {
    this.path = path;
    this.#bytes = bytes;
    this.fileSize = fileSize;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** Throws when the bytes are not there. */
  take(length: number): number {
    const at = this.at;
    if (at + length > this.fileSize)
      throw badGguf(this.path, `is cut short: byte ${at} announces ${length} more, the file has ${this.fileSize}`);
    if (at + length > this.#bytes.length) throw new NeedMore();
    this.at = at + length;
    return at;
  }

  u32(): number {
    return this.#view.getUint32(this.take(4), true);
  }

  u64(what: string): number {
    const value = this.#view.getBigUint64(this.take(8), true);
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw badGguf(this.path, `${what} is ${value}`);
    return Number(value);
  }

  count(what: string, most: number): number {
    const value = this.u64(what);
    if (value > most) throw badGguf(this.path, `${what} is ${value}, more than ${most}`);
    return value;
  }

  string(what: string): string {
    const length = this.count(`length of ${what}`, textBytesMax);
    const at = this.take(length);
    try {
      return this.#text.decode(this.#bytes.subarray(at, at + length));
    } catch {
      throw badGguf(this.path, `${what} is not UTF-8`);
    }
  }

  scalar(type: number): number | bigint | boolean {
    const at = this.take(scalarBytes[type] as number);
    const view = this.#view;
    switch (type) {
      case 0:
        return view.getUint8(at);
      case 1:
        return view.getInt8(at);
      case 2:
        return view.getUint16(at, true);
      case 3:
        return view.getInt16(at, true);
      case 4:
        return view.getUint32(at, true);
      case 5:
        return view.getInt32(at, true);
      case 6:
        return view.getFloat32(at, true);
      case 7:
        return view.getUint8(at) !== 0;
      case 10:
        return view.getBigUint64(at, true);
      case 11:
        return view.getBigInt64(at, true);
      default:
        return view.getFloat64(at, true);
    }
  }

  value(type: number, key: string, depth = 0): GgufValue {
    if (type === stringType) return this.string(`value of "${key}"`);
    if (type !== arrayType) {
      if (scalarBytes[type] === undefined) throw badGguf(this.path, `metadata "${key}" has unknown type ${type}`);
      return this.scalar(type);
    }
    if (depth >= depthMax) throw badGguf(this.path, `metadata "${key}" nests arrays too deeply`);
    const elementType = this.u32();
    const length = this.u64(`length of "${key}"`);
    const least = length * (elementType === stringType ? 8 : elementType === arrayType ? 12 : (scalarBytes[elementType] ?? 1));
    if (this.at + least > this.fileSize) throw badGguf(this.path, `metadata "${key}" says ${length} values, more than the file holds`);
    this.#arrayValues += length;
    if (this.#arrayValues > arrayValuesMax)
      throw badGguf(
        this.path,
        `metadata up to "${key}" has ${this.#arrayValues} values in arrays, more than the ${arrayValuesMax} allowed`,
      );
    const values: GgufValue[] = [];
    for (let i = 0; i < length; i++) values.push(this.value(elementType, key, depth + 1));
    return values;
  }
}

function readTensor(cursor: Cursor): GgufTensor {
  const name = cursor.string("a tensor name");
  const rank = cursor.u32();
  if (rank < 1 || rank > dimensionsMax) throw badGguf(cursor.path, `tensor "${name}" has ${rank} dimensions`);
  const dimensions: number[] = [];
  for (let i = 0; i < rank; i++) dimensions.push(cursor.u64(`a dimension of "${name}"`));
  const type = cursor.u32();
  return { name, type, dimensions, offset: cursor.u64(`the offset of "${name}"`) };
}

/** Throws NeedMore when `prefix` is too short, AppError BadGguf when it is wrong. */
export function parseGgufHeader(path: string, prefix: Uint8Array, fileSize: number): GgufHeader {
  const cursor = new Cursor(path, prefix, fileSize);
  if (cursor.u32() !== magic) throw badGguf(path, "does not begin with GGUF");
  const version = cursor.u32();
  if (version !== 2 && version !== 3) throw badGguf(path, `is GGUF version ${version}; 2 and 3 (little-endian) are supported`);
  const tensorCount = cursor.count("the number of tensors", tensorsMax);
  const keyCount = cursor.count("the number of metadata keys", keysMax);
  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < keyCount; i++) {
    const key = cursor.string("a metadata key");
    if (metadata.has(key)) throw badGguf(path, `metadata "${key}" appears twice`);
    metadata.set(key, cursor.value(cursor.u32(), key));
  }
  const tensors: GgufTensor[] = [];
  for (let i = 0; i < tensorCount; i++) tensors.push(readTensor(cursor));
  const alignment = metadata.get("general.alignment") ?? 32;
  if (typeof alignment !== "number" || !Number.isInteger(alignment) || alignment < 1 || alignment > alignmentMax) {
    throw badGguf(path, `general.alignment is ${String(alignment)}`);
  }
  return { metadata, tensors, alignment, dataStart: Math.ceil(cursor.at / alignment) * alignment };
}
