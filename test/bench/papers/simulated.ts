// Figures of papers that are computed: a code's bytes, a deal of experts to two engines, and steps of devices by bytes and products.
import { deal } from "../../../runtime/compute/engines/deal.ts";
import { planDense } from "../../../runtime/engine/thread/dense-plan.ts";
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

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);

/** Llama-3-70B in bf16: 80 layers, and embedding and head. */
const [layerBytes, endBytes] = [2 * 855e6, 2 * 2 * 128_256 * 8_192];
const layers = new Array<number>(80).fill(layerBytes);
/** Bytes per second from the machine and within the device, and products. */
const [link, memory, products] = [25e9, 2e12, 3e14];

/** Bytes of the model to what a device needs with all layers streamed. */
export function streamedRatio(): number {
  const askedBytes = endBytes + 2 * layerBytes;
  return (endBytes + sum(layers)) / planDense({ endBytes, layerBytes: layers, slots: 2, askedBytes }).deviceBytes;
}

/** Tokens per second of many rows in a step to those of few, where layers are streamed and where they stay. */
export function batchedRatio(many: number, few: number, streamed: boolean): number {
  const stepSeconds = (rows: number): number => Math.max(layerBytes / (streamed ? link : memory), (layerBytes * rows) / products);
  return (many / stepSeconds(many)) * (stepSeconds(few) / few);
}

/** Bytes of a layer in Qwen3-30B-A3B's shape, in bf16: attention, and an expert. */
const [attentionBytes, expertBytes] = [2 * 18.9e6, 2 * 4.72e6];

/** A step's time to that of half of its rows: what two devices gain at most that compute two halves at once, each of its own layers. */
export function halvedRatio(rows: number, experts: number, topK: number): number {
  const chosen = (of: number): number => experts * (1 - (1 - topK / experts) ** of);
  const bytes = (of: number): number => attentionBytes + expertBytes * chosen(of);
  return bytes(rows) / bytes(rows / 2);
}
