// Measures the peak f32 rate of one thread with a loop of fused multiply-adds in machine code.
import { ggmlLibrary } from "./library.ts";

/** Independent sums: twice the pipeline depth of the fastest processors. */
const sums = 12;
const [factor, otherFactor] = [sums, sums + 1];
const rounds = 2 ** 22;
const runs = 5;

type Lanes = 8 | 16;

/** `vxorps` of the lower half, which clears the whole register. */
const clear = (r: number): number[] => [0xc4, r < 8 ? 0xe1 : 0x41, (~r & 15) << 3, 0x57, 0xc0 | ((r & 7) << 3) | (r & 7)];

/** `vfmadd231ps`: sum += factor * otherFactor. */
function multiplyAdd(sum: number, lanes: Lanes): number[] {
  const high = sum < 8 ? 0x80 : 0;
  const head =
    lanes === 16 ? [0x62, 0x52 | high, 0x05 | ((~otherFactor & 15) << 3), 0x48] : [0xc4, 0x42 | high, 0x05 | ((~otherFactor & 15) << 3)];
  return [...head, 0xb8, 0xc0 | ((sum & 7) << 3) | (factor & 7)];
}

/** x64 code of a function whose argument is the number of rounds. */
export function fmaLoop(lanes: Lanes): Uint8Array {
  const registers = Array.from({ length: sums + 2 }, (_, r) => clear(r)).flat();
  const body = Array.from({ length: sums }, (_, sum) => multiplyAdd(sum, lanes)).flat();
  const countDown = [0x48, 0xff, 0xcf]; // dec rdi
  const back = -(body.length + countDown.length + 2);
  return Uint8Array.from([...registers, ...body, ...countDown, 0x75, back & 0xff, 0xc5, 0xf8, 0x77, 0xc3]); // jne, vzeroupper, ret
}

/** GFLOP/s of one thread; undefined on other processors and where code may not be made. */
export function fmaGigaflops(): number | undefined {
  if (process.arch !== "x64") return undefined;
  const ggml = ggmlLibrary();
  if (ggml.ggml_cpu_has_fma() === 0) return undefined;
  const lanes = ggml.ggml_cpu_has_avx512() === 0 ? 8 : 16;
  const loop = ggml.machineCode(fmaLoop(lanes));
  if (loop === undefined) return undefined;
  let best = Number.POSITIVE_INFINITY;
  for (let run = 0; run < runs; run++) {
    const start = performance.now();
    loop(rounds);
    best = Math.min(best, performance.now() - start);
  }
  return (2 * lanes * sums * rounds) / (best * 1e6);
}
