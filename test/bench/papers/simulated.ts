// Figures of papers that are computed: a code's bytes, and a deal of experts to two engines.
import { deal } from "../../../runtime/compute/engines/deal.ts";
import { uniform } from "../../../runtime/kernels/random.ts";
import { encodeTernary } from "../../../runtime/weights/qmoe.ts";

const rowsOfMatrix = 64;
const columns = 6144;
/** Two bf16 and where a row begins. */
const bytesBesideRow = 8;

/** Bytes of bf16 to those of the code of ternary values of which that part is zero. */
export function ternaryRatio(zeros: number): number {
  const draw = uniform(5);
  let coded = 0;
  for (let row = 0; row < rowsOfMatrix; row++) {
    const values = Uint8Array.from({ length: columns }, () => (draw() < zeros ? 0 : draw() < 0.5 ? 1 : 2));
    coded += 2 * encodeTernary(values, new Uint16Array(columns)) + bytesBesideRow;
  }
  return (2 * rowsOfMatrix * columns) / coded;
}

/** Seconds of an expert's rows: the device is faster but for what it takes to read an expert's weights. */
const secondsOf = (rows: number) => ({ device: Math.max(8, rows) / 8, processor: rows });

/** The time of the faster of two engines to that of both. */
export function dealtRatio(): number {
  const experts = [1, 1, 2, 4, 8, 16, 64, 128].map(secondsOf);
  const { seconds, alone } = deal(experts, { device: 0, processor: 0 });
  return Math.min(alone.device, alone.processor) / seconds;
}
