// softRoute: the gate of EvoMoE, which falls from all experts to few.
import { floats, gradientOf, type Kernel, type KernelCase, kernelCase, matrix, type OpContext } from "./kernel.ts";
import { randomTensor } from "./random.ts";
import { softmaxShares, topK } from "./route.ts";

/**
 * With `schedule` (temperature t, threshold, most), the experts of a row are in descending order of logits, ties to the lowest id;
 * of the first `most`, those with softmax(logits / t) of at least the threshold stay, and the first one always. ids[n, experts]
 * i32: these, then the number of experts as padding; gates[n, experts] = softmax(logits / t) over these, then zeros. For training
 * only; it ends as `route`.
 */
interface SoftRoute {
  readonly op: "softRoute";
  readonly logits: string;
  /** Weight [3]: temperature, threshold, most. */
  readonly schedule: string;
  readonly experts: number;
  readonly ids: string;
  readonly gates: string;
}

interface Schedule {
  readonly temperature: number;
  readonly threshold: number;
  readonly most: number;
}

function scheduleOf(op: SoftRoute, context: OpContext): Schedule {
  const [temperature, threshold, most] = floats(context.read(op.schedule)) as unknown as [number, number, number];
  return { temperature, threshold, most: Math.round(most) };
}

function chosen(
  row: Float32Array,
  { temperature, threshold, most }: Schedule,
): { readonly ids: readonly number[]; readonly gates: number[] } {
  const max = row.reduce((largest, logit) => Math.max(largest, logit), Number.NEGATIVE_INFINITY);
  const weights = Float64Array.from(row, (logit) => Math.exp((logit - max) / temperature));
  const all = weights.reduce((sum, weight) => sum + weight, 0);
  const ids = topK(row, most).filter((id, place) => place === 0 || (weights[id] as number) >= threshold * all);
  const sum = ids.reduce((total, id) => total + (weights[id] as number), 0);
  return { ids, gates: ids.map((id) => (weights[id] as number) / sum) };
}

function sized(rows: number, experts: number, schedule: Schedule): KernelCase<SoftRoute> {
  const { temperature, threshold, most } = schedule;
  return kernelCase(softRoute, {
    name: `${rows} rows, at most ${most} of ${experts} above ${threshold} at ${temperature}`,
    op: { op: "softRoute", logits: "logits", schedule: "schedule", experts, ids: "ids", gates: "gates" },
    weights: { schedule: { shape: [3], data: Float32Array.of(temperature, threshold, most) } },
    inputs: { logits: randomTensor(81, [rows, experts], 2) },
  });
}

function ties(most: number): KernelCase<SoftRoute> {
  const { inputs, ...rest } = sized(3, 8, { temperature: 2, threshold: 0.125, most });
  const logits = { ...inputs.logits, shape: [3, 8], data: new Float32Array(24).fill(0.5) };
  return { ...rest, name: `ties, at most ${most}`, inputs: { logits } };
}

export const softRoute: Kernel<SoftRoute> = {
  name: "softRoute",
  trainedOnly: true,
  gateLogits: (op) => op.logits,
  /** The schedule ends at temperature 1. */
  shares: (_, logits) => softmaxShares(logits),
  reads: (op) => [op.logits, op.schedule],
  outputs: (op) => [
    { name: op.ids, dtype: "i32", width: () => op.experts },
    { name: op.gates, dtype: "f32", width: () => op.experts },
  ],
  tolerance: 2e-6,
  forward(op, context) {
    const logits = context.read(op.logits);
    const schedule = scheduleOf(op, context);
    const { rows, width } = matrix(logits);
    const ids = new Int32Array(rows * width).fill(op.experts);
    const gates = new Float32Array(rows * width);
    for (let n = 0; n < rows; n++) {
      const found = chosen(floats(logits).subarray(n * width, (n + 1) * width), schedule);
      ids.set(found.ids, n * width);
      gates.set(found.gates, n * width);
    }
    return { [op.ids]: { shape: [rows, width], data: ids }, [op.gates]: { shape: [rows, width], data: gates } };
  },
  /** The choice, threshold and most are constant. */
  backward(op, context, outputs) {
    const logits = context.read(op.logits);
    const schedule = scheduleOf(op, context);
    const { temperature } = schedule;
    const { rows, width } = matrix(logits);
    const dGates = gradientOf(outputs, op.gates);
    const dLogits = new Float32Array(rows * width);
    let dTemperature = 0;
    for (let n = 0; n < rows; n++) {
      const row = floats(logits).subarray(n * width, (n + 1) * width);
      const { ids, gates } = chosen(row, schedule);
      const given = (place: number): number => dGates[n * width + place] as number;
      const mean = gates.reduce((sum, gate, place) => sum + gate * given(place), 0);
      for (const [place, id] of ids.entries()) {
        const slope = ((gates[place] as number) * (given(place) - mean)) / temperature;
        dLogits[n * width + id] = slope;
        dTemperature -= (slope * (row[id] as number)) / temperature;
      }
    }
    return { [op.logits]: dLogits, [op.schedule]: Float32Array.of(dTemperature, 0, 0) };
  },
  cases: () => [
    sized(1, 1, { temperature: 1, threshold: 0, most: 1 }),
    sized(3, 8, { temperature: 4, threshold: 0.1, most: 8 }),
    sized(65, 64, { temperature: 1, threshold: 0.02, most: 64 }),
    sized(5, 8, { temperature: 1, threshold: 0, most: 2 }),
    ties(8),
    ties(3),
  ],
};
