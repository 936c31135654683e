// A small WebAssembly assembler for vector kernels; numbers are the specification's opcodes.

export type Code = readonly number[];

const valueType = { i32: 0x7f, f32: 0x7d, f64: 0x7c, v128: 0x7b } as const;
export type ValueType = keyof typeof valueType;

const simd = 0xfd;

function uint(value: number): number[] {
  const bytes: number[] = [];
  let rest = value;
  do {
    const low = rest % 128;
    rest = Math.floor(rest / 128);
    bytes.push(rest > 0 ? low + 128 : low);
  } while (rest > 0);
  return bytes;
}

const vector = (items: readonly Code[]): number[] => [...uint(items.length), ...items.flat()];
const text = (value: string): number[] => vector([...new TextEncoder().encode(value)].map((byte) => [byte]));
const section = (id: number, items: readonly Code[]): number[] => {
  const body = vector(items);
  return [id, ...uint(body.length), ...body];
};

/** Alignment with the flag for an explicit memory, the memory, the offset. */
const access = (memory: number, alignment: number, offset: number): number[] => [alignment + 64, ...uint(memory), ...uint(offset)];

export const get = (local: number): Code => [0x20, ...uint(local)];
export const set = (local: number, value: Code): Code => [...value, 0x21, ...uint(local)];
export const i32 = (value: number): Code => [0x41, value]; // 0 to 63
export const addI32 = (a: Code, b: Code): Code => [...a, ...b, 0x6a];
export const addF64 = (a: Code, b: Code): Code => [...a, ...b, 0xa0];

/** Four floats, `offset` bytes from `at`. */
export const load = (memory: number, at: Code, offset: number): Code => [...at, simd, 0x00, ...access(memory, 4, offset)];
export const store = (memory: number, at: Code, value: Code, offset: number): Code => [
  ...at,
  ...value,
  ...[simd, 0x0b],
  ...access(memory, 4, offset),
];
/** Two floats, `offset` bytes from `at`, as doubles. */
export const loadPromoted = (memory: number, at: Code, offset: number): Code => [
  ...at,
  ...[simd, 0x5d, ...access(memory, 3, offset)],
  ...[simd, 0x5f],
];

const binary =
  (opcode: number) =>
  (a: Code, b: Code): Code => [...a, ...b, simd, ...uint(opcode)];
export const add = binary(0xe4);
export const sub = binary(0xe5);
export const mul = binary(0xe6);
export const div = binary(0xe7);
export const sqrt = (a: Code): Code => [...a, simd, ...uint(0xe3)];
export const splat = (a: Code): Code => [...a, simd, 0x13];
export const addDoubles = binary(0xf0);
export const mulDoubles = binary(0xf2);
export const microBatch = (a: Code, index: 0 | 1): Code => [...a, simd, 0x21, index];

/** Runs `body` while local `at` is below local `end`, unsigned. */
export const whileBelow = (at: number, end: number, body: Code): Code => [
  ...[0x02, 0x40, 0x03, 0x40],
  ...get(at),
  ...get(end),
  ...[0x4f, 0x0d, 1],
  ...body,
  ...[0x0c, 0, 0x0b, 0x0b],
];

export interface Func {
  readonly name: string;
  readonly params: readonly ValueType[];
  readonly result?: ValueType;
  readonly locals: readonly ValueType[];
  readonly body: Code;
}

export interface MemoryImport {
  readonly name: string;
  readonly pages: number;
}

/** A module whose memories are imported as env.<name>. */
export function assemble(memories: readonly MemoryImport[], functions: readonly Func[]): Uint8Array<ArrayBuffer> {
  const typeOf = (name: ValueType): Code => [valueType[name]];
  const types = functions.map(
    ({ params, result }): Code => [0x60, ...vector(params.map(typeOf)), ...vector(result === undefined ? [] : [typeOf(result)])],
  );
  const imports = memories.map(({ name, pages }): Code => [...text("env"), ...text(name), 0x02, 0x01, ...uint(pages), ...uint(pages)]);
  const code = functions.map(({ locals, body }): Code => {
    const inner = [...vector(locals.map((name) => [1, valueType[name]])), ...body, 0x0b];
    return [...uint(inner.length), ...inner];
  });
  return Uint8Array.from([
    ...[0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00],
    ...section(1, types),
    ...section(2, imports),
    ...section(
      3,
      functions.map((_, i) => uint(i)),
    ),
    ...section(
      7,
      functions.map(({ name }, i): Code => [...text(name), 0x00, ...uint(i)]),
    ),
    ...section(10, code),
  ]);
}
