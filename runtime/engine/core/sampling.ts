// The sampler, from logits to a token, pure: greedy, temperature, top-k, top-p, with random numbers that depend on (seed, output
// position) alone. So a request gives the same text on any worker, with any batch mates, and after a replay.
import { firstNotFinite, unusableNumber } from "./finite.ts";
import type { Sampling } from "./request.ts";

export interface Sampled {
  readonly token: number;
  /** Natural log-probability under the untempered softmax; 0 when not asked for. */
  readonly logprob: number;
}

/** Throws AppError `UnusableLogits` when a logit is NaN or infinite: any token would be made up. */
export function sample(logits: Float32Array, sampling: Sampling, position: number): Sampled {
  const bad = firstNotFinite(logits);
  if (bad >= 0) throw unusableNumber(`logit ${bad} of output token ${position}`, logits[bad] as number);
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

/** Temperature, then the k heaviest, then the smallest set of the heaviest whose mass reaches p. */
function draw(logits: Float32Array, best: number, { temperature, topK, topP }: Sampling, u: number): number {
  const max = logits[best] as number;
  const weights = new Float64Array(logits.length);
  for (let id = 0; id < weights.length; id++) weights[id] = Math.exp(((logits[id] as number) - max) / temperature);
  if (topK <= 0 && topP >= 1) return pick(weights, u);
  let total = 0;
  for (const weight of weights) total += weight;
  // Ids lighter than this carry less than 1 - p together, so the set never reaches them (top-k only shrinks it further).
  const floor = topP < 1 && topK === 0 ? ((1 - topP) * total) / weights.length : 0;
  const ranked = new Ranked(weights, floor, best);
  const limit = topK > 0 ? Math.min(topK, ranked.length) : ranked.length;
  let mass = total;
  if (topK > 0) {
    mass = 0;
    for (let i = 0; i < limit; i++) mass += weights[ranked.at(i)] as number;
  }
  let reached = 0;
  let count = 0;
  while (count < limit && (count === 0 || reached < topP * mass)) reached += weights[ranked.at(count++)] as number;
  const chosen = new Float64Array(count);
  for (let i = 0; i < count; i++) chosen[i] = weights[ranked.at(i)] as number;
  return ranked.at(pick(chosen, u));
}

/** Ids by weight, the heaviest first, ties the lowest id. A heap that is sorted only as far as it is read, from its end: of a
 *  whole vocabulary the first few are wanted. */
class Ranked {
  readonly length: number;
  readonly #weights: Float64Array;
  /** The heap, then what was taken off it: the heaviest last. */
  readonly #ids: Uint32Array;
  #heap: number;

  /** Makes a heap of the ids heavier than `floor`, and of `best`. */
  constructor(weights: Float64Array, floor: number, best: number) {
    this.#weights = weights;
    this.#ids = new Uint32Array(weights.length);
    let length = 0;
    for (let id = 0; id < weights.length; id++) if ((weights[id] as number) > floor || id === best) this.#ids[length++] = id;
    this.length = length;
    this.#heap = length;
    for (let i = (length >> 1) - 1; i >= 0; i--) this.#sink(i);
  }

  /** The id of rank i, counted from 0. */
  at(i: number): number {
    const ids = this.#ids;
    for (let last = this.#heap - 1; last >= this.length - 1 - i; last--) {
      const heaviest = ids[0] as number;
      ids[0] = ids[last] as number;
      ids[last] = heaviest;
      this.#heap = last;
      this.#sink(0);
    }
    return ids[this.length - 1 - i] as number;
  }

  #sink(from: number): void {
    const ids = this.#ids;
    const id = ids[from] as number;
    let at = from;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= this.#heap) break;
      if (child + 1 < this.#heap && this.#before(ids[child + 1] as number, ids[child] as number)) child++;
      if (!this.#before(ids[child] as number, id)) break;
      ids[at] = ids[child] as number;
      at = child;
    }
    ids[at] = id;
  }

  #before(a: number, b: number): boolean {
    const x = this.#weights[a] as number;
    const y = this.#weights[b] as number;
    return x > y || (x === y && a < b);
  }
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
