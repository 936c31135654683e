// An optimizer's arithmetic as WebAssembly: the step of a range, and the sum of squares of a range of gradients.
import type { Optimizer } from "./optimizer.ts";
import {
  addDoubles,
  addF64,
  addI32,
  assemble,
  type Code,
  type Func,
  get,
  i32,
  load,
  loadPromoted,
  microBatch,
  mulDoubles,
  set,
  splat,
  store,
  type ValueType,
  whileBelow,
} from "./wasm.ts";

declare const WebAssembly: {
  Memory: new (size: { initial: number; maximum: number }) => { readonly buffer: ArrayBuffer };
  Module: new (bytes: Uint8Array<ArrayBuffer>) => object;
  Instance: new (module: object, imports: object) => { readonly exports: Readonly<Record<string, unknown>> };
};

const vectorBytes = 16;
const pageBytes = 65536;
const floatBytes = Float32Array.BYTES_PER_ELEMENT;

/** The most floats of an array, since a memory has less than 4 GiB. */
export const floatsMax = 2 ** 30 - pageBytes;

interface KernelRange {
  readonly from: number;
  readonly to: number;
  readonly state: number;
}

export interface Kernel {
  readonly p: Float32Array;
  readonly g: Float32Array;
  readonly state: readonly Float32Array[];
  step(range: KernelRange, numbers: Readonly<Record<string, number>>): void;
  squares(from: number, to: number): number;
}

/** The order of memories: gradients, parameters, then the optimizer's own. */
const memory = { g: 0, p: 1, state: 2 } as const;

/**
 * The byte at which an array begins. Arrays are offset by cache lines, since addresses a multiple of 4 KiB apart alias in the
 * processor.
 */
const beginOf = (index: number): number => index * 17 * 64;

/** Parameters of the function: the range in bytes; the offset of its state, modulo 4 GiB; then the numbers. */
const [at, end, shift, firstNumber] = [0, 1, 2, 3];

function stepFunction(optimizer: Optimizer): Func {
  const { numbers, state } = optimizer;
  const arrays = ["g", "p", ...state];
  const wide = (index: number): number => firstNumber + numbers.length + index;
  const local = (array: string): number => wide(numbers.length + arrays.indexOf(array));
  const [here, there] = [get(at), addI32(get(at), get(shift))];
  const place = (index: number): Code => (index < memory.state ? here : there);
  const assignments = optimizer.assignments({
    number: (name) => get(wide(numbers.indexOf(name))),
    array: (name) => get(local(name)),
  });
  const loop = [
    ...arrays.flatMap((array, i) => set(local(array), load(i, place(i), beginOf(i)))),
    ...assignments.flatMap(([array, value]) => set(local(array), value)),
    ...arrays.flatMap((array, i) => (i === memory.g ? [] : store(i, place(i), get(local(array)), beginOf(i)))),
    ...set(at, addI32(here, i32(vectorBytes))),
  ];
  return {
    name: "step",
    params: ["i32", "i32", "i32", ...numbers.map((): ValueType => "f32")],
    locals: [...numbers, ...arrays].map((): ValueType => "v128"),
    body: [...numbers.flatMap((_, i) => set(wide(i), splat(get(firstNumber + i)))), ...whileBelow(at, end, loop)],
  };
}

function squaresFunction(): Func {
  const [low, high, pair] = [2, 3, 4];
  const added = (sum: number, offset: number): Code => [
    ...set(pair, loadPromoted(memory.g, get(at), beginOf(memory.g) + offset)),
    ...set(sum, addDoubles(get(sum), mulDoubles(get(pair), get(pair)))),
  ];
  const loop = [...added(low, 0), ...added(high, vectorBytes / 2), ...set(at, addI32(get(at), i32(vectorBytes)))];
  const both = (sum: number): Code => addF64(microBatch(get(sum), 0), microBatch(get(sum), 1));
  return {
    name: "squares",
    params: ["i32", "i32"],
    result: "f64",
    locals: ["v128", "v128", "v128"],
    body: [...whileBelow(at, end, loop), ...addF64(both(low), both(high))],
  };
}

/** Defines the sum of squares of the floats from..to-1 in f64, by four lanes that are added pairwise. */
export function plainSquares(g: Float32Array, from: number, to: number): number {
  const sums = [0, 0, 0, 0] as [number, number, number, number];
  for (let i = from; i < to; i++) sums[(i - from) % 4] = (sums[(i - from) % 4] as number) + (g[i] as number) ** 2;
  return sums[0] + sums[1] + (sums[2] + sums[3]);
}

/** `stateFloats` is the length of each state array; all lengths are at most `floatsMax`. */
export function createKernel(optimizer: Optimizer, floats: number, stateFloats: number): Kernel {
  const sizes = ["g", "p", ...optimizer.state].map((name, i) => {
    const length = i < memory.state ? floats : stateFloats;
    return { name, length, pages: Math.max(1, Math.ceil((beginOf(i) + length * floatBytes) / pageBytes)) };
  });
  const made = sizes.map(({ pages }) => new WebAssembly.Memory({ initial: pages, maximum: pages }));
  const module = new WebAssembly.Module(assemble(sizes, [stepFunction(optimizer), squaresFunction()]));
  const env = Object.fromEntries(sizes.map(({ name }, i) => [name, made[i]]));
  const { exports } = new WebAssembly.Instance(module, { env });
  const step = exports.step as (at: number, end: number, shift: number, ...numbers: number[]) => void;
  const squares = exports.squares as (at: number, end: number) => number;
  const [g, p, ...state] = sizes.map(({ length }, i) => new Float32Array((made[i] as { buffer: ArrayBuffer }).buffer, beginOf(i), length));
  return {
    p: p as Float32Array,
    g: g as Float32Array,
    state,
    step: (range, numbers) => {
      const own = optimizer.numbers.map((name) => numbers[name] as number);
      step(floatBytes * range.from, floatBytes * range.to, floatBytes * (range.state - range.from), ...own);
    },
    squares: (from, to) => squares(floatBytes * from, floatBytes * to),
  };
}
