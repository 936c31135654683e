// AdamW over the memories of a run: the step of a range of parameters and the square of a range of gradients, as WebAssembly of four
// floats at a time. Its arithmetic is defined by the plain functions here, to the bit. Pure.
import {
  add,
  addDoubles,
  addF64,
  addI32,
  assemble,
  type Code,
  div,
  type Func,
  get,
  i32,
  lane,
  load,
  loadPromoted,
  mul,
  mulDoubles,
  set,
  splat,
  sqrt,
  store,
  sub,
  type ValueType,
  whileBelow,
} from "./wasm.ts";

/** The numbers of one step, each rounded to f32, by which the arithmetic of all parameters is done. */
export interface StepNumbers {
  /** Gradients are multiplied by it: what clipping leaves of them. */
  readonly clip: number;
  readonly beta1: number;
  readonly rest1: number; // 1 - beta1
  readonly beta2: number;
  readonly rest2: number; // 1 - beta2
  readonly correct1: number; // 1 / (1 - beta1^step)
  readonly correct2: number; // 1 / (1 - beta2^step)
  readonly epsilon: number;
  readonly decay: number;
  readonly rate: number;
}

const numberNames = [
  "clip",
  "beta1",
  "rest1",
  "beta2",
  "rest2",
  "correct1",
  "correct2",
  "epsilon",
  "decay",
  "rate",
] as const satisfies readonly (keyof StepNumbers)[];

export interface AdamWSettings {
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  readonly decay: number;
}

/** `step` counts from 1. */
export function stepNumbers(settings: AdamWSettings, step: number, rate: number, clip: number): StepNumbers {
  const { beta1, beta2, epsilon, decay } = settings;
  const round = Math.fround;
  return {
    clip: round(clip),
    beta1: round(beta1),
    rest1: round(1 - beta1),
    beta2: round(beta2),
    rest2: round(1 - beta2),
    correct1: round(1 / (1 - beta1 ** step)),
    correct2: round(1 / (1 - beta2 ** step)),
    epsilon: round(epsilon),
    decay: round(decay),
    rate: round(rate),
  };
}

/** The arrays of a run: parameters, both moments, gradients. */
export interface Arrays {
  readonly p: Float32Array;
  readonly m: Float32Array;
  readonly v: Float32Array;
  readonly g: Float32Array;
}

/** The definition of a step, for the floats from..to-1: every operation is rounded to f32. */
export function plainStep({ p, m, v, g }: Arrays, from: number, to: number, n: StepNumbers): void {
  const round = Math.fround;
  for (let i = from; i < to; i++) {
    const gradient = round(n.clip * (g[i] as number));
    const first = round(round(n.beta1 * (m[i] as number)) + round(n.rest1 * gradient));
    const second = round(round(n.beta2 * (v[i] as number)) + round(round(n.rest2 * gradient) * gradient));
    const size = round(round(Math.sqrt(round(second * n.correct2))) + n.epsilon);
    const move = round(round(round(first * n.correct1) / size) + round(n.decay * (p[i] as number)));
    m[i] = first;
    v[i] = second;
    p[i] = (p[i] as number) - round(n.rate * move);
  }
}

/** The definition of the sum of squares of the floats from..to-1, a multiple of four, in f64: by four, those pairwise. */
export function plainSquares(g: Float32Array, from: number, to: number): number {
  const sums = [0, 0, 0, 0] as [number, number, number, number];
  for (let i = from; i < to; i++) sums[(i - from) % 4] = (sums[(i - from) % 4] as number) + (g[i] as number) ** 2;
  return sums[0] + sums[1] + (sums[2] + sums[3]);
}

/** The part of the engine's interface that is used here: TypeScript has it only among the things of browsers. */
declare const WebAssembly: {
  Memory: new (size: { initial: number; maximum: number }) => { readonly buffer: ArrayBuffer };
  Module: new (bytes: Uint8Array<ArrayBuffer>) => object;
  Instance: new (module: object, imports: object) => { readonly exports: Readonly<Record<string, unknown>> };
};

const memories = ["p", "m", "v", "g"] as const;
const memory = { p: 0, m: 1, v: 2, g: 3 } as const;
const vectorBytes = 16;
const pageBytes = 65536;

/** Parameters of the functions: where the range begins and ends, in bytes; then the numbers. */
const [at, end, firstNumber] = [0, 1, 2];

function stepFunction(): Func {
  const count = numberNames.length;
  const wide = (name: (typeof numberNames)[number]): Code => get(firstNumber + count + numberNames.indexOf(name));
  const [g, m, v, p] = [0, 1, 2, 3].map((i) => firstNumber + 2 * count + i) as [number, number, number, number];
  const here = get(at);
  const size = add(sqrt(mul(get(v), wide("correct2"))), wide("epsilon"));
  const move = add(div(mul(get(m), wide("correct1")), size), mul(wide("decay"), get(p)));
  const loop = [
    ...set(g, mul(wide("clip"), load(memory.g, here))),
    ...set(m, add(mul(wide("beta1"), load(memory.m, here)), mul(wide("rest1"), get(g)))),
    ...set(v, add(mul(wide("beta2"), load(memory.v, here)), mul(mul(wide("rest2"), get(g)), get(g)))),
    ...set(p, load(memory.p, here)),
    ...store(memory.m, here, get(m)),
    ...store(memory.v, here, get(v)),
    ...store(memory.p, here, sub(get(p), mul(wide("rate"), move))),
    ...set(at, addI32(here, i32(vectorBytes))),
  ];
  return {
    name: "step",
    params: ["i32", "i32", ...numberNames.map((): ValueType => "f32")],
    locals: [...numberNames, g, m, v, p].map((): ValueType => "v128"),
    body: [...numberNames.flatMap((_, i) => set(firstNumber + count + i, splat(get(firstNumber + i)))), ...whileBelow(at, end, loop)],
  };
}

function squaresFunction(): Func {
  const [low, high, pair] = [2, 3, 4];
  const added = (sum: number, offset: number): Code => [
    ...set(pair, loadPromoted(memory.g, get(at), offset)),
    ...set(sum, addDoubles(get(sum), mulDoubles(get(pair), get(pair)))),
  ];
  const loop = [...added(low, 0), ...added(high, vectorBytes / 2), ...set(at, addI32(get(at), i32(vectorBytes)))];
  const both = (sum: number): Code => addF64(lane(get(sum), 0), lane(get(sum), 1));
  return {
    name: "squares",
    params: ["i32", "i32"],
    result: "f64",
    locals: ["v128", "v128", "v128"],
    body: [...whileBelow(at, end, loop), ...addF64(both(low), both(high))],
  };
}

/** Floats of each array, at most: a memory has less than 4 GiB. */
export const floatsMax = 2 ** 30 - pageBytes;

/** Zeroed arrays of a run, with the arithmetic on them. Ranges begin and end at multiples of four floats. */
export interface Optimizer extends Arrays {
  step(from: number, to: number, numbers: StepNumbers): void;
  squares(from: number, to: number): number;
}

/** `floats` up to `floatsMax`. */
export function createAdamW(floats: number): Optimizer {
  const pages = Math.max(1, Math.ceil((floats * Float32Array.BYTES_PER_ELEMENT) / pageBytes));
  const made = memories.map((name) => [name, new WebAssembly.Memory({ initial: pages, maximum: pages })] as const);
  const module = new WebAssembly.Module(assemble(memories, pages, [stepFunction(), squaresFunction()]));
  const { exports } = new WebAssembly.Instance(module, { env: Object.fromEntries(made) });
  const step = exports.step as (at: number, end: number, ...numbers: number[]) => void;
  const squares = exports.squares as (at: number, end: number) => number;
  const [p, m, v, g] = made.map(([, { buffer }]) => new Float32Array(buffer, 0, floats)) as [
    Float32Array,
    Float32Array,
    Float32Array,
    Float32Array,
  ];
  return {
    p,
    m,
    v,
    g,
    step: (from, to, numbers) => step(4 * from, 4 * to, ...numberNames.map((name) => numbers[name])),
    squares: (from, to) => squares(4 * from, 4 * to),
  };
}
