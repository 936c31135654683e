// From logits to a token, pure: greedy, temperature, top-k, top-p, with random numbers that depend on (seed, output position)
// alone. So a request gives the same text on any worker, with any batch mates, and after a replay.
import type { Sampling } from "./request.ts";

export interface Sampled {
  readonly token: number;
  /** Natural log-probability under the untempered softmax; 0 when not asked for. */
  readonly logprob: number;
}

export function sample(logits: Float32Array, sampling: Sampling, position: number): Sampled {
  const best = argmax(logits);
  const token = sampling.temperature > 0 ? draw(logits, best, sampling, uniform(sampling.seed, position)) : best;
  return { token, logprob: sampling.logprobs ? logprobOf(logits, token, best) : 0 };
}

/** Ties go to the lowest id. */
export function argmax(logits: Float32Array): number {
  let best = 0;
  let value = Number.NEGATIVE_INFINITY;
  for (let i = 0; i < logits.length; i++) {
    const logit = logits[i] as number;
    if (logit > value) {
      value = logit;
      best = i;
    }
  }
  return best;
}

function logprobOf(logits: Float32Array, token: number, best: number): number {
  const max = logits[best] as number;
  let sum = 0;
  for (const logit of logits) sum += Math.exp(logit - max);
  return (logits[token] as number) - max - Math.log(sum);
}

interface Candidate {
  readonly id: number;
  readonly weight: number;
}

const byWeight = (a: Candidate, b: Candidate): number => b.weight - a.weight || a.id - b.id;

/** Temperature, then the k heaviest, then the smallest set of the heaviest whose mass reaches p. */
function draw(logits: Float32Array, best: number, sampling: Sampling, u: number): number {
  const max = logits[best] as number;
  const weights = Float64Array.from(logits, (logit) => Math.exp((logit - max) / sampling.temperature));
  const limits = sampling.topK > 0 || sampling.topP < 1;
  if (!limits) return pick(weights, u);
  const total = weights.reduce((a, b) => a + b, 0);
  // Ids lighter than this carry less than 1 - p together, so the set never reaches them (top-k only shrinks it further).
  const floor = sampling.topP < 1 && sampling.topK === 0 ? ((1 - sampling.topP) * total) / weights.length : 0;
  const candidates: Candidate[] = [];
  for (let id = 0; id < weights.length; id++) {
    const weight = weights[id] as number;
    if (weight > floor || id === best) candidates.push({ id, weight });
  }
  candidates.sort(byWeight);
  const kept = sampling.topK > 0 ? candidates.slice(0, sampling.topK) : candidates;
  const mass = sampling.topK > 0 ? kept.reduce((sum, { weight }) => sum + weight, 0) : total;
  let reached = 0;
  let count = 0;
  while (count < kept.length && (count === 0 || reached < sampling.topP * mass)) reached += kept[count++]?.weight ?? 0;
  const chosen = kept.slice(0, count);
  return (
    chosen[
      pick(
        Float64Array.from(chosen, ({ weight }) => weight),
        u,
      )
    ]?.id ?? best
  );
}

/** Index at which the running sum of weights passes u of the whole. */
function pick(weights: Float64Array, u: number): number {
  let total = 0;
  for (const weight of weights) total += weight;
  const target = u * total;
  let sum = 0;
  let last = 0;
  for (let i = 0; i < weights.length; i++) {
    const weight = weights[i] as number;
    if (weight > 0) last = i;
    sum += weight;
    if (sum > target) return i;
  }
  return last; // u close to 1 and rounding
}

const mask64 = (1n << 64n) - 1n;
const golden = 0x9e3779b97f4a7c15n;

/** The finaliser of splitmix64. */
function mix(value: bigint): bigint {
  let z = value & mask64;
  z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & mask64;
  z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & mask64;
  return z ^ (z >> 31n);
}

/** A number in [0, 1) that depends on (seed, position) alone. */
export function uniform(seed: bigint, position: number): number {
  const bits = mix(mix(seed + golden) + golden * BigInt(position + 1));
  return Number(bits >> 11n) / 2 ** 53;
}
