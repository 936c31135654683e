// groupRoute: the gates of DeepSeek, with a choice of groups before that of experts.
import { floats, gradientOf, ints, type Kernel, type KernelCase, kernelCase, matrix, type Shares } from "./kernel.ts";
import { randomTensor } from "./random.ts";
import { softmax, softmaxShares, topK } from "./route.ts";

/**
 * Scores are softmax or sigmoid of the logits; choices are scores plus the bias. Of the `groups` equal groups, the `groupsKept` with the
 * largest sum of their `groupTop` best choices stay (ties: the lowest group). ids[n, topK] are the best choices within these, descending
 * (ties: the lowest id); gates[n, topK] = scores at ids, divided by their sum + 1e-20 if `normalize`, times `scale`. See `route` for ties.
 */
interface GroupRoute {
  readonly op: "groupRoute";
  readonly logits: string;
  /** Weight [experts]; absent where choices are scores. */
  readonly bias?: string;
  readonly sigmoid: boolean;
  readonly topK: number;
  readonly groups: number;
  readonly groupsKept: number;
  readonly groupTop: number;
  readonly normalize: boolean;
  readonly scale: number;
  readonly ids: string;
  readonly gates: string;
}

/** transformers adds the same. */
const sumFloor = 1e-20;

const scoresOf = (op: GroupRoute, logits: Float32Array): Float64Array =>
  op.sigmoid ? Float64Array.from(logits, (value) => 1 / (1 + Math.exp(-value))) : softmax(logits);

function withinGroups(op: GroupRoute, choices: Float64Array): Float64Array {
  const size = choices.length / op.groups;
  const best = Float64Array.from({ length: op.groups }, (_, group) => {
    const own = choices.subarray(group * size, (group + 1) * size);
    return topK(own, op.groupTop).reduce((sum, i) => sum + (own[i] as number), 0);
  });
  const kept = new Set(topK(best, op.groupsKept));
  return choices.map((choice, i) => (kept.has(Math.floor(i / size)) ? choice : Number.NEGATIVE_INFINITY));
}

function choose(op: GroupRoute, logits: Float32Array, bias: Float32Array | undefined): { ids: number[]; scores: Float64Array } {
  const scores = scoresOf(op, logits);
  const choices = bias ? scores.map((score, i) => score + (bias[i] as number)) : scores;
  return { ids: topK(op.groups > 1 ? withinGroups(op, choices) : choices, op.topK), scores };
}

function sigmoidShares(scores: Float64Array): Shares {
  const sum = scores.reduce((a, b) => a + b, 0) + sumFloor;
  const values = scores.map((score) => score / sum);
  return {
    values,
    gradient(dShares) {
      const mean = values.reduce((total, value, i) => total + value * (dShares[i] as number), 0);
      return values.map((value, i) => value * (1 - (scores[i] as number)) * ((dShares[i] as number) - mean));
    },
  };
}

const factorOf = (op: GroupRoute, scores: Float64Array, ids: readonly number[]): number =>
  op.scale / (op.normalize ? ids.reduce((sum, id) => sum + (scores[id] as number), 0) + sumFloor : 1);

type Variant = Partial<Pick<GroupRoute, "sigmoid" | "groups" | "groupsKept" | "groupTop" | "normalize" | "scale">> & {
  readonly biased?: true;
};

function sized(rows: number, experts: number, k: number, { biased, ...variant }: Variant = {}): KernelCase<GroupRoute> {
  const plain = { sigmoid: false, groups: 1, groupsKept: 1, groupTop: 1, normalize: false, scale: 1 };
  const { sigmoid, groups, groupsKept } = { ...plain, ...variant };
  const said = [sigmoid ? "sigmoid" : "softmax", `${groupsKept} of ${groups} groups`, ...(biased ? ["bias"] : [])].join(", ");
  return kernelCase(groupRoute, {
    name: `${rows} rows, top ${k} of ${experts}, ${said}`,
    op: {
      op: "groupRoute",
      logits: "logits",
      ...(biased ? { bias: "bias" } : {}),
      ...plain,
      ...variant,
      topK: k,
      ids: "ids",
      gates: "gates",
    },
    weights: biased ? { bias: randomTensor(27, [experts], 0.3) } : {},
    inputs: { logits: randomTensor(26, [rows, experts], 2) },
  });
}

function ties(): KernelCase<GroupRoute> {
  const { inputs, ...rest } = sized(2, 8, 3, { sigmoid: true, groups: 4, groupsKept: 2, groupTop: 2 });
  return {
    ...rest,
    name: "ties go to the lowest group and expert",
    byOrder: ["ids"],
    inputs: { logits: { ...inputs.logits, shape: [2, 8], data: new Float32Array(16) } },
  };
}

export const groupRoute: Kernel<GroupRoute> = {
  name: "groupRoute",
  gateLogits: (op) => op.logits,
  shares: (op, logits) => (op.sigmoid ? sigmoidShares(scoresOf(op, logits)) : softmaxShares(logits)),
  choiceBias: (op) => op.bias,
  reads: (op) => [op.logits, ...(op.bias === undefined ? [] : [op.bias])],
  outputs: (op) => [
    { name: op.ids, dtype: "i32", width: () => op.topK },
    { name: op.gates, dtype: "f32", width: () => op.topK },
  ],
  tolerance: 2e-6,
  forward(op, context) {
    const logits = context.read(op.logits);
    const bias = op.bias === undefined ? undefined : floats(context.read(op.bias));
    const { rows, width } = matrix(logits);
    const ids = new Int32Array(rows * op.topK);
    const gates = new Float32Array(rows * op.topK);
    for (let n = 0; n < rows; n++) {
      const chosen = choose(op, floats(logits).subarray(n * width, (n + 1) * width), bias);
      const factor = factorOf(op, chosen.scores, chosen.ids);
      for (const [k, id] of chosen.ids.entries()) {
        ids[n * op.topK + k] = id;
        gates[n * op.topK + k] = (chosen.scores[id] as number) * factor;
      }
    }
    return { [op.ids]: { shape: [rows, op.topK], data: ids }, [op.gates]: { shape: [rows, op.topK], data: gates } };
  },
  /**
   * The choice is constant, so the bias has no gradient. For gates g = c s: ds = c (dg - p), with p = dg.g / scale if normalized, or 0.
   */
  backward(op, context, outputs) {
    const logits = context.read(op.logits);
    const bias = op.bias === undefined ? undefined : floats(context.read(op.bias));
    const { rows, width } = matrix(logits);
    const written = groupRoute.forward(op, context);
    const ids = ints(written[op.ids] as (typeof written)[string]);
    const gates = floats(written[op.gates] as (typeof written)[string]);
    const dGates = gradientOf(outputs, op.gates);
    const dLogits = new Float32Array(rows * width);
    for (let n = 0; n < rows; n++) {
      const row = floats(logits).subarray(n * width, (n + 1) * width);
      const scores = scoresOf(op, row);
      const own = Array.from({ length: op.topK }, (_, k) => n * op.topK + k);
      const factor = factorOf(
        op,
        scores,
        own.map((at) => ids[at] as number),
      );
      const pull = op.normalize ? own.reduce((sum, at) => sum + (dGates[at] as number) * (gates[at] as number), 0) / op.scale : 0;
      const dScores = new Float64Array(width);
      for (const at of own) dScores[ids[at] as number] = factor * ((dGates[at] as number) - pull);
      const mean = op.sigmoid ? 0 : dScores.reduce((sum, value, e) => sum + value * (scores[e] as number), 0);
      for (let e = 0; e < width; e++) {
        const score = scores[e] as number;
        dLogits[n * width + e] = score * ((dScores[e] as number) * (op.sigmoid ? 1 - score : 1) - mean);
      }
    }
    return { [op.logits]: dLogits, ...(op.bias === undefined || !bias ? {} : { [op.bias]: new Float32Array(bias.length) }) };
  },
  cases: () => [
    sized(1, 1, 1),
    sized(3, 8, 2, { scale: 16, normalize: true }),
    sized(65, 64, 6, { groups: 8, groupsKept: 3, scale: 16 }),
    sized(5, 64, 8, { sigmoid: true, groups: 8, groupsKept: 4, groupTop: 2, normalize: true, scale: 2.5, biased: true }),
    sized(3, 65, 4, { sigmoid: true, biased: true }),
    ties(),
  ],
};
