// Fits a bias-free router by spherical k-means without the common mean direction, scaled to a target confidence.
import { AppError } from "../../../crds/common.ts";
import { roundToBf16 } from "../../weights/floats.ts";
import { keyOf, uniform } from "./noise.ts";

const iterationsMax = 25;
const fitTokensMax = 6000; // k-means uses an even sample of at most this many
const bisectionSteps = 40;
const scaleMax = 1e4;

export interface RouterOptions {
  readonly experts: number;
  readonly topK: number;
  /** Target mean over tokens of the largest softmax probability. */
  readonly topProbability: number;
  readonly seed: number;
}

export interface FittedRouter {
  /** [experts, hidden], exactly representable in bf16. */
  readonly rows: Float32Array;
  readonly topProbability: number;
  /** Tokens that choose each expert among their top-k. */
  readonly loads: readonly number[];
}

function meanDirection(states: Float32Array, hidden: number): Float64Array {
  const mean = new Float64Array(hidden);
  for (let at = 0; at < states.length; at += hidden)
    for (let i = 0; i < hidden; i++) mean[i] = (mean[i] as number) + (states[at + i] as number);
  return normalize(mean);
}

function normalize(vector: Float64Array): Float64Array {
  let sum = 0;
  for (const value of vector) sum += value * value;
  const inverse = sum > 0 ? 1 / Math.sqrt(sum) : 0;
  return vector.map((value) => value * inverse);
}

function removeDirection(vector: Float64Array, direction: Float64Array): Float64Array {
  let along = 0;
  for (let i = 0; i < vector.length; i++) along += (vector[i] as number) * (direction[i] as number);
  return vector.map((value, i) => value - along * (direction[i] as number));
}

/** Sampled unit rows without the mean direction. */
function directions(states: Float32Array, hidden: number, mean: Float64Array): Float32Array {
  const tokens = states.length / hidden;
  const stride = Math.max(1, Math.ceil(tokens / fitTokensMax));
  const out = new Float32Array(Math.ceil(tokens / stride) * hidden);
  for (let token = 0, to = 0; token < tokens; token += stride, to += hidden) {
    const row = Float64Array.from(states.subarray(token * hidden, (token + 1) * hidden));
    out.set(normalize(removeDirection(row, mean)), to);
  }
  return out;
}

/** Row [hidden] times centres [experts, hidden]. */
function scores(row: Float32Array, centres: Float32Array, out: Float64Array): void {
  const hidden = row.length;
  for (let expert = 0, from = 0; expert < out.length; expert++, from += hidden) {
    let a = 0;
    let b = 0;
    let c = 0;
    let d = 0;
    let i = 0;
    for (; i + 3 < hidden; i += 4) {
      a += (row[i] as number) * (centres[from + i] as number);
      b += (row[i + 1] as number) * (centres[from + i + 1] as number);
      c += (row[i + 2] as number) * (centres[from + i + 2] as number);
      d += (row[i + 3] as number) * (centres[from + i + 3] as number);
    }
    for (; i < hidden; i++) a += (row[i] as number) * (centres[from + i] as number);
    out[expert] = a + b + (c + d);
  }
}

function largest(values: Float64Array): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if ((values[i] as number) > (values[best] as number)) best = i;
  return best;
}

/** k-means++: the chance of a row grows with its squared distance from centres. */
function firstCentres(rows: Float32Array, hidden: number, experts: number, key: number): Float32Array {
  const count = rows.length / hidden;
  const centres = new Float32Array(experts * hidden);
  const distance = new Float64Array(count).fill(1);
  const score = new Float64Array(1);
  for (let expert = 0; expert < experts; expert++) {
    const total = distance.reduce((sum, value) => sum + value, 0);
    let target = uniform(key, expert) * total;
    let chosen = 0;
    while (chosen < count - 1 && target >= (distance[chosen] as number)) target -= distance[chosen++] as number;
    const centre = rows.slice(chosen * hidden, (chosen + 1) * hidden);
    centres.set(centre, expert * hidden);
    for (let i = 0; i < count; i++) {
      scores(rows.subarray(i * hidden, (i + 1) * hidden), centre, score);
      distance[i] = Math.min(distance[i] as number, Math.max(0, 1 - (score[0] as number)) ** 2);
    }
  }
  return centres;
}

/** An empty cluster's centre moves to the worst fitting row. */
function cluster(rows: Float32Array, hidden: number, experts: number, key: number): Float32Array {
  const count = rows.length / hidden;
  let centres = firstCentres(rows, hidden, experts, key);
  const owner = new Int32Array(count).fill(-1);
  const score = new Float64Array(experts);
  for (let iteration = 0; iteration < iterationsMax; iteration++) {
    const sums = new Float64Array(experts * hidden);
    const sizes = new Int32Array(experts);
    let changed = 0;
    let worst = { row: 0, score: 2 };
    for (let i = 0; i < count; i++) {
      scores(rows.subarray(i * hidden, (i + 1) * hidden), centres, score);
      const best = largest(score);
      if (owner[i] !== best) changed++;
      owner[i] = best;
      sizes[best] = (sizes[best] as number) + 1;
      if ((score[best] as number) < worst.score) worst = { row: i, score: score[best] as number };
      for (let j = 0; j < hidden; j++) sums[best * hidden + j] = (sums[best * hidden + j] as number) + (rows[i * hidden + j] as number);
    }
    centres = new Float32Array(experts * hidden);
    for (let expert = 0; expert < experts; expert++) {
      const from = sizes[expert] === 0 ? Float64Array.from(rows.subarray(worst.row * hidden, (worst.row + 1) * hidden)) : undefined;
      centres.set(normalize(from ?? sums.subarray(expert * hidden, (expert + 1) * hidden)), expert * hidden);
    }
    if (changed * 1000 < count) break;
  }
  return centres;
}

/** [tokens, experts]. */
function allScores(states: Float32Array, hidden: number, centres: Float32Array, experts: number): Float64Array {
  const tokens = states.length / hidden;
  const out = new Float64Array(tokens * experts);
  for (let token = 0; token < tokens; token++) {
    const row = states.subarray(token * hidden, (token + 1) * hidden);
    scores(row, centres, out.subarray(token * experts, (token + 1) * experts));
  }
  return out;
}

function meanTop(score: Float64Array, experts: number, scale: number): number {
  let sum = 0;
  for (let at = 0; at < score.length; at += experts) {
    let top = -Infinity;
    for (let e = 0; e < experts; e++) top = Math.max(top, score[at + e] as number);
    let total = 0;
    for (let e = 0; e < experts; e++) total += Math.exp(scale * ((score[at + e] as number) - top));
    sum += 1 / total;
  }
  return sum / (score.length / experts);
}

function findScale(score: Float64Array, experts: number, target: number): number {
  let low = 0;
  let high = 1;
  while (meanTop(score, experts, high) < target && high < scaleMax) high *= 2;
  for (let step = 0; step < bisectionSteps; step++) {
    const middle = (low + high) / 2;
    if (meanTop(score, experts, middle) < target) low = middle;
    else high = middle;
  }
  return high;
}

function countLoads(score: Float64Array, experts: number, topK: number): number[] {
  const loads = new Array<number>(experts).fill(0);
  const order = Array.from({ length: experts }, (_, e) => e);
  for (let at = 0; at < score.length; at += experts) {
    order.sort((a, b) => (score[at + b] as number) - (score[at + a] as number) || a - b);
    for (const expert of order.slice(0, topK)) loads[expert] = (loads[expert] as number) + 1;
  }
  return loads;
}

/** `states` [tokens, hidden]: the normed FFN inputs of `layer`'s router. */
export function fitRouter(states: Float32Array, hidden: number, layer: number, options: RouterOptions): FittedRouter {
  const { experts } = options;
  const tokens = states.length / hidden;
  if (tokens < experts * 4)
    throw new AppError(`${tokens} tokens are too few to fit a router of ${experts} experts`, { code: "TooFewTokens" });
  const mean = meanDirection(states, hidden);
  const found = cluster(directions(states, hidden, mean), hidden, experts, keyOf(options.seed, layer, 0x40));
  return scaledRouter(states, hidden, { mean, centres: found }, options);
}

/** Sums of the tokens' directions by label become the rows, so that each expert is for the tokens of its label. */
export function labelledRouter(
  states: Float32Array,
  hidden: number,
  labels: Uint16Array,
  options: Omit<RouterOptions, "seed">,
): FittedRouter {
  const mean = meanDirection(states, hidden);
  const centres = new Float32Array(options.experts * hidden);
  for (const [token, label] of labels.entries()) {
    const row = normalize(removeDirection(Float64Array.from(states.subarray(token * hidden, (token + 1) * hidden)), mean));
    for (let i = 0; i < hidden; i++) centres[label * hidden + i] = (centres[label * hidden + i] as number) + (row[i] as number);
  }
  return scaledRouter(states, hidden, { mean, centres }, options);
}

function scaledRouter(
  states: Float32Array,
  hidden: number,
  { mean, centres: found }: { readonly mean: Float64Array; readonly centres: Float32Array },
  { experts, topK, topProbability }: Omit<RouterOptions, "seed">,
): FittedRouter {
  const centres = new Float32Array(experts * hidden);
  for (let expert = 0; expert < experts; expert++) {
    const centre = Float64Array.from(found.subarray(expert * hidden, (expert + 1) * hidden));
    centres.set(normalize(removeDirection(centre, mean)), expert * hidden);
  }
  const scale = findScale(allScores(states, hidden, centres, experts), experts, topProbability);
  const rows = roundToBf16(centres.map((value) => value * scale));
  const score = allScores(states, hidden, rows, experts);
  return { rows, topProbability: meanTop(score, experts, 1), loads: countLoads(score, experts, topK) };
}
