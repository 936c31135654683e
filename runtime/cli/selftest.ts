// Self-test of a compute backend: ops against the reference, and multiplication speed beside the machine's limits.
import type { BackendChoice } from "../../crds/names.ts";
import type { Backend, Compiled, DeviceMemory } from "../compute/backend.ts";
import { createBackend } from "../compute/index.ts";
import { type OpResult, tryOps, wrongOps } from "../compute/op-self-test.ts";
import { ggmlBytes, isGgmlForm } from "../kernels/ggml/index.ts";
import { randomTensor } from "../kernels/random.ts";
import type { Segment, Tensor } from "../kernels/segment.ts";
import type { GgmlWeight, WeightOf } from "../kernels/weights.ts";

/** 256 MiB in f32, far larger than caches. */
const largeSize = 8_192;
const smallSize = 256;
const rowsOfPrefill = 256;
const runs = 5;
const copyBytes = 256 * 2 ** 20;

interface ProductResult {
  readonly case: string;
  /** Bytes of weights read, per second. */
  readonly gigabytesPerSecond: number;
  readonly gigaflops: number;
}

export interface SelfTest {
  readonly device: string;
  readonly numericClass: Backend["numericClass"];
  /** Measured before the test; undefined where the backend uses the machine's memory. */
  readonly memory: DeviceMemory | undefined;
  readonly ops: readonly OpResult[];
  /** A plain copy bounds products of one row. */
  readonly copyGigabytesPerSecond: number;
  /** One thread's multiply-adds; undefined where the processor has no such loop. */
  readonly fmaGigaflops: number | undefined;
  readonly products: readonly ProductResult[];
}

export interface SelfTestOptions {
  readonly backend: BackendChoice;
  readonly threads: number;
  /** False skips the speeds, for start-up checks. */
  readonly speed: boolean;
  /** "op: case"; unset = all. */
  readonly only?: string | undefined;
}

/** True when at least one case ran and all are within bounds. */
export const passed = ({ ops }: SelfTest): boolean => ops.some(({ error }) => error !== undefined) && wrongOps(ops).length === 0;

export async function selfTest({ backend: choice, threads, speed, only }: SelfTestOptions): Promise<SelfTest> {
  const [backend, oracle] = [await createBackend(choice, { threads }), await createBackend("reference", { threads: 1 })];
  try {
    return {
      device: backend.device,
      numericClass: backend.numericClass,
      memory: backend.memory(),
      ops: await tryOps(backend, oracle, only),
      ...(speed ? await machineSpeeds() : { copyGigabytesPerSecond: 0, fmaGigaflops: undefined }),
      products: speed ? await productSpeeds(backend) : [],
    };
  } finally {
    await backend.close();
    await oracle.close();
  }
}

const seconds = (from: number): number => Math.max((performance.now() - from) / 1000, 1e-9);

function copySpeed(): number {
  const [from, to] = [Buffer.alloc(copyBytes, 1), Buffer.alloc(copyBytes)];
  let best = 0;
  for (let run = 0; run < runs; run++) {
    const start = performance.now();
    from.copy(to);
    best = Math.max(best, (2 * copyBytes) / seconds(start) / 1e9);
  }
  return best;
}

export async function machineSpeeds(): Promise<Pick<SelfTest, "copyGigabytesPerSecond" | "fmaGigaflops">> {
  return { copyGigabytesPerSecond: copySpeed(), fmaGigaflops: await fmaGigaflops().catch(() => undefined) };
}

const productForms = ["f32", "q8_0", "q4_0", "iq4_nl"] as const;
type ProductForm = (typeof productForms)[number];

const productCases = [
  { name: "one row, matrix in memory", size: largeSize, rows: 1, repeat: 1 },
  { name: "256 rows, matrix in memory", size: largeSize, rows: rowsOfPrefill, repeat: 1 },
  { name: "256 rows, matrix in cache", size: smallSize, rows: rowsOfPrefill, repeat: 20 },
] as const;

async function productSpeeds(backend: Backend): Promise<ProductResult[]> {
  const products: ProductResult[] = [];
  for (const form of productForms)
    for (const { name, size, rows, repeat } of productCases) {
      const weight = matrixOf(form, size);
      const program = await backend.compile(square(size), { w: weight }).catch(() => undefined); // the backend does not support this form
      if (program === undefined) continue;
      const time = await fastest(program, { shape: [rows, size], data: new Float32Array(rows * size).fill(0.01) }, repeat);
      await program.dispose();
      products.push({
        case: `${form}, ${name}`,
        gigabytesPerSecond: weight.data.byteLength / time / 1e9,
        gigaflops: (2 * rows * size * size) / time / 1e9,
      });
    }
  return products;
}

/** A small number as an f16 scale. */
const blockByte = 0x11;

function matrixOf(form: ProductForm, size: number): WeightOf<"f32"> | GgmlWeight {
  const shape = [size, size];
  if (isGgmlForm(form)) return { form, shape, data: new Uint8Array(ggmlBytes(form, size * size)).fill(blockByte) };
  const { data } = randomTensor(1, [smallSize, smallSize], 0.01);
  const values = new Float32Array(size * size);
  for (let at = 0; at < values.length; at += data.length) values.set(data as Float32Array, at);
  return { form, shape, data: values };
}

function square(size: number): Segment {
  return {
    name: "product",
    inputs: [{ name: "x", dtype: "f32", width: size }],
    outputs: [{ name: "y", dtype: "f32", width: size }],
    weights: [{ name: "w", shape: [size, size] }],
    ops: [{ op: "matMul", x: "x", weight: "w", out: "y" }],
  };
}

async function fastest(program: Compiled, x: Tensor, repeat: number): Promise<number> {
  let best = Number.POSITIVE_INFINITY;
  for (let run = 0; run <= runs; run++) {
    const start = performance.now();
    for (let i = 0; i < repeat; i++) await program.run({ x });
    if (run > 0) best = Math.min(best, seconds(start) / repeat); // the first run builds what the others use
  }
  return best;
}

/** The peak rate is measured by a loop of fused multiply-adds with so many independent sums: twice the pipeline depth of the fastest processors. */
const chains = 12;
const [factor, otherFactor] = [chains, chains + 1];
const fmaRounds = 2 ** 22;

type VectorWidth = 8 | 16;

/** `vxorps` of the lower half, which clears the whole register. */
const clear = (r: number): number[] => [0xc4, r < 8 ? 0xe1 : 0x41, (~r & 15) << 3, 0x57, 0xc0 | ((r & 7) << 3) | (r & 7)];

/** `vfmadd231ps`: sum += factor * otherFactor. */
function multiplyAdd(sum: number, width: VectorWidth): number[] {
  const high = sum < 8 ? 0x80 : 0;
  const head =
    width === 16 ? [0x62, 0x52 | high, 0x05 | ((~otherFactor & 15) << 3), 0x48] : [0xc4, 0x42 | high, 0x05 | ((~otherFactor & 15) << 3)];
  return [...head, 0xb8, 0xc0 | ((sum & 7) << 3) | (factor & 7)];
}

/** x64 code of a function whose argument is the number of rounds. */
export function fmaLoop(width: VectorWidth): Uint8Array {
  const registers = Array.from({ length: chains + 2 }, (_, r) => clear(r)).flat();
  const body = Array.from({ length: chains }, (_, sum) => multiplyAdd(sum, width)).flat();
  const countDown = [0x48, 0xff, 0xcf]; // dec rdi
  const back = -(body.length + countDown.length + 2);
  return Uint8Array.from([...registers, ...body, ...countDown, 0x75, back & 0xff, 0xc5, 0xf8, 0x77, 0xc3]); // jne, vzeroupper, ret
}

/** GFLOP/s of one thread; undefined on other processors and where code may not be made. Throws without ggml's libraries, which make it. */
export async function fmaGigaflops(): Promise<number | undefined> {
  if (process.arch !== "x64") return undefined;
  const ggml = (await import("../compute/ggml/library.ts")).ggmlLibrary();
  if (ggml.ggml_cpu_has_fma() === 0) return undefined;
  const width = ggml.ggml_cpu_has_avx512() === 0 ? 8 : 16;
  const loop = ggml.machineCode(fmaLoop(width));
  if (loop === undefined) return undefined;
  let best = Number.POSITIVE_INFINITY;
  for (let run = 0; run < runs; run++) {
    const start = performance.now();
    loop(fmaRounds);
    best = Math.min(best, performance.now() - start);
  }
  return (2 * width * chains * fmaRounds) / (best * 1e6);
}
