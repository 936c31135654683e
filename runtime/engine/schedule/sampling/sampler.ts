// The sampler: penalties, bias and constraint, then greedy or temperature, min-p, top-k and top-p. Its random numbers depend on (seed,
// output position) alone.
import type { RatedToken, Sampling, TopTokens } from "../request.ts";
import { expOf } from "./exponential.ts";
import { unusableNumber } from "./finite.ts";
import { Row } from "./logit-row.ts";
import type { OpenSampling } from "./open-sampling.ts";
import { RowEdits } from "./penalties.ts";

export interface Sampled {
  readonly token: number;
  /** The model's own logits decide it, before temperature, penalties and constraint. 0 unless requested. */
  readonly logprob: number;
  readonly top?: TopTokens;
}

export class Sampler {
  readonly #row = new Row();
  readonly #edits = new RowEdits();
  #weights = new Float64Array(0);
  #allowed = new Uint32Array(0);
  #compact = new Float32Array(0);

  /** Undefined while it is not known which tokens the constraint allows. Throws AppError `UnusableLogits` when a logit is NaN or infinite. */
  sample(logits: Float32Array, request: OpenSampling, position: number): Sampled | undefined {
    const { sampling, penalties } = request;
    const row = this.#row;
    this.#scan(logits, position);
    const max = logits[row.best] as number;
    const logSum = sampling.logprobs ? Math.log(this.#weigh(logits, max, 1)) : 0;
    const top = sampling.logprobs && sampling.topLogprobs ? topOf(row, sampling.topLogprobs, max + logSum) : undefined;
    let token: number | undefined;
    this.#edits.begin(logits);
    try {
      if (penalties) {
        penalties.apply(this.#edits);
        this.#scan(logits, position);
      }
      token = this.#choose(logits, request, position);
    } finally {
      this.#edits.undo();
    }
    if (token === undefined) return undefined;
    const logprob = sampling.logprobs ? (logits[token] as number) - max - logSum : 0;
    return top ? { token, logprob, top } : { token, logprob };
  }

  /** Throws as `sample` does. */
  rate(logits: Float32Array, token: number, position: number, topLogprobs: number): RatedToken {
    this.#scan(logits, position, "prompt");
    const max = logits[this.#row.best] as number;
    const logSum = Math.log(this.#weigh(logits, max, 1));
    const logprob = (logits[token] as number) - max - logSum;
    return topLogprobs > 0 ? { logprob, top: topOf(this.#row, topLogprobs, max + logSum) } : { logprob };
  }

  #scan(logits: Float32Array, position: number, of: "output" | "prompt" = "output"): void {
    const bad = this.#row.scan(logits);
    if (bad >= 0) throw unusableNumber(`logit ${bad} of ${of} token ${position}`, logits[bad] as number);
  }

  #choose(logits: Float32Array, { sampling, held }: OpenSampling, position: number): number | undefined {
    const row = this.#row;
    const draws = sampling.temperature > 0;
    const u = draws ? uniform(sampling.seed, position) : 0;
    if (!held) return draws ? this.#draw(sampling, u) : row.best;
    if (!draws && held.allows(row.best)) return row.best;
    if (this.#allowed.length < logits.length) {
      this.#allowed = new Uint32Array(logits.length);
      this.#compact = new Float32Array(logits.length);
    }
    const count = held.candidates(this.#allowed);
    if (count === undefined) return undefined;
    for (let i = 0; i < count; i++) this.#compact[i] = logits[this.#allowed[i] as number] as number;
    row.scan(this.#compact.subarray(0, count));
    return this.#allowed[draws ? this.#draw(sampling, u) : row.best] as number;
  }

  /** Writes e^((value - max) / temperature) into `#weights`; returns the sum. */
  #weigh(values: Float32Array, max: number, temperature: number): number {
    const length = values.length;
    if (this.#weights.length < length) this.#weights = new Float64Array(length);
    const weights = this.#weights;
    const sharpness = 1 / temperature;
    let total = 0;
    for (let i = 0; i < length; i++) {
      const weight = expOf(((values[i] as number) - max) * sharpness);
      weights[i] = weight;
      total += weight;
    }
    return total;
  }

  /** Applies min-p, then top-k, then top-p. */
  #draw({ temperature, topK: k, topP, minP = 0 }: Sampling, u: number): number {
    const row = this.#row;
    const values = row.values;
    const max = values[row.best] as number;
    const topK = k > 0 && k < values.length ? k : 0;
    if (topK === 0 && topP >= 1 && minP <= 0) return this.#drawAll(u * this.#weigh(values, max, temperature));
    let mass = 0;
    let floor = Number.NEGATIVE_INFINITY;
    if (topK > 0) floor = row.floorOf(topK);
    if (minP > 0) floor = Math.max(floor, max + temperature * Math.log(minP));
    if (topK === 0 && minP <= 0) {
      mass = this.#weigh(values, max, temperature);
      // Values below weigh less than 1 - p together, so the set never reaches them.
      floor = max + temperature * Math.log(((1 - topP) * mass) / values.length) - rounding;
    }
    const ids = row.atLeast(Math.min(floor, max));
    return this.#among(ids, { temperature, topK, topP, mass }, u);
  }

  /** Sums the most likely tokens first, in the order of head-candidates.ts. */
  #drawAll(target: number): number {
    const row = this.#row;
    const { values } = row;
    const weights = this.#weights;
    const ranked = new Ranked(values, row.atLeast(row.floorOf(firstDrawn)));
    let reached = 0;
    for (let rank = 0; rank < Math.min(firstDrawn, ranked.length); rank++) {
      const id = ranked.at(rank);
      reached += weights[id] as number;
      if (reached > target) return id;
      weights[id] = 0;
    }
    let last = row.best;
    for (let id = 0; id < values.length; id++) {
      const weight = weights[id] as number;
      if (weight > 0) last = id;
      reached += weight;
      if (reached > target) return id;
    }
    return last;
  }

  #among(ids: Uint32Array, { temperature, topK, topP, mass }: Limits, u: number): number {
    const values = this.#row.values;
    const max = values[this.#row.best] as number;
    const sharpness = 1 / temperature;
    const weigh = (id: number): number => expOf(((values[id] as number) - max) * sharpness);
    if (this.#weights.length < ids.length) this.#weights = new Float64Array(ids.length);
    const weights = this.#weights;
    let all = mass;
    if (topK === 0 && mass === 0) {
      for (let i = 0; i < ids.length; i++) weights[i] = weigh(ids[i] as number);
      if (topP >= 1) return ids[pick(weights.subarray(0, ids.length), u)] as number;
      all = sum(weights.subarray(0, ids.length));
    }
    const ranked = new Ranked(values, ids);
    const limit = topK > 0 ? Math.min(topK, ranked.length) : ranked.length;
    if (topK > 0) {
      for (let i = 0; i < limit; i++) weights[i] = weigh(ranked.at(i));
      all = sum(weights.subarray(0, limit));
    }
    let count = limit;
    if (topP < 1) {
      let reached = 0;
      for (count = 0; count < limit && (count === 0 || reached < topP * all); count++) {
        weights[count] = weigh(ranked.at(count));
        reached += weights[count] as number;
      }
    }
    return ranked.at(pick(weights.subarray(0, count), u));
  }
}

export const firstDrawn = 64;

interface Limits {
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  /** The total weight that top-p refers to; 0 = the sum of the given ones. */
  readonly mass: number;
}

/** A margin in logits for the error of a logarithm and an exponential. */
const rounding = 1e-6;

function topOf(row: Row, count: number, logSum: number): TopTokens {
  const { values } = row;
  const ranked = new Ranked(values, row.atLeast(row.floorOf(count)));
  const ids = Uint32Array.from({ length: Math.min(count, ranked.length) }, (_, rank) => ranked.at(rank));
  return { ids, logprobs: Float64Array.from(ids, (id) => (values[id] as number) - logSum) };
}

function pick(weights: Float64Array, u: number): number {
  const target = u * sum(weights);
  let reached = 0;
  let last = 0;
  for (let i = 0; i < weights.length; i++) {
    const weight = weights[i] as number;
    if (weight > 0) last = i;
    reached += weight;
    if (reached > target) return i;
  }
  return last;
}

function sum(values: Float64Array): number {
  let total = 0;
  for (let i = 0; i < values.length; i++) total += values[i] as number;
  return total;
}

const mask64 = (1n << 64n) - 1n;
const golden = 0x9e3779b97f4a7c15n;

function mix(value: bigint): bigint {
  let z = value & mask64;
  z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & mask64;
  z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & mask64;
  return z ^ (z >> 31n);
}

/** Returns a number in [0, 1) that depends on (seed, position) alone. */
export function uniform(seed: bigint, position: number): number {
  const bits = mix(mix(seed + golden) + golden * BigInt(position + 1));
  return Number(bits >> 11n) / 2 ** 53;
}

class Ranked {
  readonly length: number;
  readonly #values: Float32Array;
  /** The heap, then the removed indexes in ascending order of value. */
  readonly #ids: Uint32Array;
  #heap: number;

  /** Takes `ids` over and reorders them. */
  constructor(values: Float32Array, ids: Uint32Array) {
    this.#values = values;
    this.#ids = ids;
    this.length = ids.length;
    this.#heap = ids.length;
    for (let i = (ids.length >> 1) - 1; i >= 0; i--) this.#sink(i);
  }

  /** Rank 0 is the largest. */
  at(i: number): number {
    const ids = this.#ids;
    for (let last = this.#heap - 1; last >= this.length - 1 - i; last--) {
      const largest = ids[0] as number;
      ids[0] = ids[last] as number;
      ids[last] = largest;
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
    const x = this.#values[a] as number;
    const y = this.#values[b] as number;
    return x > y || (x === y && a < b);
  }
}
