// Chooses a token from a device's top candidates: the one that the sampler would choose from the whole row, or undefined if other tokens
// could matter.

import type { Sampling, TopTokens } from "../request.ts";
import { expOf } from "./exponential.ts";
import type { OpenSampling } from "./open-sampling.ts";
import type { Edits } from "./penalties.ts";
import { firstDrawn, type Sampled, uniform } from "./sampler.ts";

export const candidatesMost = 256;
/** The relative error of a device's sum over the vocabulary. */
const sumError = 2 ** -10;

export interface Candidates {
  /** The largest, in descending order; ties in any order. */
  readonly ids: ArrayLike<number>;
  readonly values: Float32Array;
  /** The first candidate's probability in the whole row's softmax, and at the request's temperature. */
  readonly share: number;
  readonly sharpShare: number;
  readonly vocab: number;
}

interface Token {
  readonly id: number;
  readonly value: number;
}

const byRank = (a: Token, b: Token): number => b.value - a.value || a.id - b.id;

/** Of other tokens only a bound is known; every change is monotonic in the logit, so the bound changes alike. */
class Edited implements Edits {
  readonly #known: Map<number, number>;
  readonly #bound: number;
  readonly #others = new Map<number, number>();

  constructor(tokens: readonly Token[], bound: number) {
    this.#known = new Map(tokens.map(({ id, value }) => [id, value]));
    this.#bound = bound;
  }

  get(id: number): number {
    return this.#known.get(id) ?? this.#others.get(id) ?? this.#bound;
  }

  set(id: number, value: number): void {
    if (this.#known.has(id)) this.#known.set(id, Math.fround(value));
    else this.#others.set(id, Math.fround(value));
  }

  tokens(): Token[] {
    return [...this.#known].map(([id, value]) => ({ id, value })).sort(byRank);
  }

  bounds(): readonly number[] {
    return [...this.#others.values()];
  }
}

interface Field {
  readonly tokens: readonly Token[];
  readonly vocab: number;
  readonly bound: number;
  /** Bounds of the sum of all weights e^((value - largest) / temperature). */
  readonly least: number;
  readonly most: number;
}

export function chooseAmong(candidates: Candidates, request: OpenSampling, position: number): Sampled | undefined {
  const { ids, values, share, sharpShare, vocab } = candidates;
  if (!(share > 0 && sharpShare > 0) || !values.every(Number.isFinite)) return undefined;
  const { sampling, penalties } = request;
  const tokens = Array.from(values, (value, i) => ({ id: ids[i] as number, value })).sort(byRank);
  const whole = tokens.length >= vocab;
  const bound = whole ? Number.NEGATIVE_INFINITY : (tokens.at(-1)?.value ?? Number.NEGATIVE_INFINITY);
  const logSum = (tokens[0] as Token).value - Math.log(share);
  const top = sampling.logprobs && sampling.topLogprobs ? topOf(tokens, sampling.topLogprobs, { bound, logSum }) : "none";
  if (top === undefined) return undefined;
  const edited = penalties && new Edited(tokens, bound);
  if (edited) penalties.apply(edited);
  const before = { tokens, vocab, bound, mass: 1 / sharpShare };
  const field = edited ? fieldAfter(before, edited, sharpnessOf(sampling)) : fieldOf(before);
  const token = choose(field, request, position);
  if (token === undefined) return undefined;
  const raw = tokens.find(({ id }) => id === token) as Token;
  const logprob = sampling.logprobs ? raw.value - logSum : 0;
  return top === "none" ? { token, logprob } : { token, logprob, top };
}

function topOf(
  tokens: readonly Token[],
  count: number,
  { bound, logSum }: { readonly bound: number; readonly logSum: number },
): TopTokens | undefined {
  const first = tokens.slice(0, count);
  if (!((first.at(-1)?.value ?? bound) > bound)) return undefined;
  return { ids: Uint32Array.from(first, ({ id }) => id), logprobs: Float64Array.from(first, ({ value }) => value - logSum) };
}

interface Known extends Pick<Field, "tokens" | "vocab" | "bound"> {
  readonly mass: number;
}

const fieldOf = ({ tokens, vocab, bound, mass }: Known): Field => ({
  tokens,
  vocab,
  bound,
  least: mass * (1 - sumError),
  most: mass * (1 + sumError),
});

/** Weights are relative to the largest value after the change. */
function fieldAfter(before: Known, edited: Edited, sharpness: number): Field {
  const { vocab, bound } = before;
  const tokens = edited.tokens();
  const others = edited.bounds();
  const max = (tokens[0] as Token).value;
  // A value above the new maximum weighs more than 1, which expOf does not support.
  const weigh = (value: number): number => (value > max ? Math.exp((value - max) * sharpness) : expOf((value - max) * sharpness));
  const sum = (of: readonly Token[]): number => of.reduce((total, { value }) => total + weigh(value), 0);
  const mass = sum(tokens);
  if (tokens.length >= vocab) return fieldOf({ tokens, vocab, bound, mass });
  const known = sum(before.tokens);
  const all = weigh((before.tokens[0] as Token).value) * before.mass;
  const rest = Math.max(0, all * (1 + sumError) - known);
  const restLeast = Math.max(0, all * (1 - sumError) - known - others.length * weigh(bound));
  const changed = others.reduce((total, value) => total + weigh(value), 0);
  return {
    tokens,
    vocab,
    bound: others.reduce((most, value) => Math.max(most, value), bound),
    least: mass + restLeast,
    most: mass + rest + changed,
  };
}

/** The factor before the softmax; 1 for greedy. */
export const sharpnessOf = ({ temperature }: Pick<Sampling, "temperature">): number => (temperature > 0 ? 1 / temperature : 1);

function choose(field: Field, { sampling, held }: OpenSampling, position: number): number | undefined {
  const { tokens, bound } = field;
  const certain = (token: Token | undefined): token is Token => token !== undefined && token.value > bound;
  if (sampling.temperature > 0) return held ? undefined : draw(field, sampling, uniform(sampling.seed, position));
  const best = held ? tokens.find(({ id }) => held.allows(id)) : tokens[0];
  return certain(best) ? best.id : undefined;
}

function draw(field: Field, { temperature, topK, topP, minP = 0 }: Sampling, u: number): number | undefined {
  const { tokens, vocab, bound } = field;
  const k = topK < vocab ? topK : 0;
  const max = (tokens[0] as Token).value;
  const sharpness = 1 / temperature;
  const weigh = ({ value }: Token): number => expOf((value - max) * sharpness);
  const floor = minP > 0 ? Math.min(max, max + temperature * Math.log(minP)) : Number.NEGATIVE_INFINITY;
  if (k === 0 && minP <= 0) {
    if (!Number.isFinite(field.most)) return undefined;
    const count = topP < 1 ? nucleus(tokens.map(weigh), topP, field) : tokens.length;
    if (count === undefined || (topP < 1 && !((tokens[count - 1] as Token).value > bound))) return undefined;
    return topP < 1 ? pick(tokens.slice(0, count), weigh, u) : ofAll(field, weigh, u);
  }
  const likely = tokens.filter(({ value }) => value >= floor);
  const limited = k > 0 ? likely.slice(0, k) : likely;
  // The selection is complete if its last token lies above all others or the floor does.
  const known = floor > bound || (limited.length === k && (limited.at(-1) as Token).value > bound) || bound === Number.NEGATIVE_INFINITY;
  if (!known) return undefined;
  if (k === 0) limited.sort((a, b) => a.id - b.id);
  if (topP >= 1) return pick(limited, weigh, u);
  const goal = topP * limited.map(weigh).reduce((sum, weight) => sum + weight, 0);
  const ranked = limited.sort(byRank);
  return pick(ranked.slice(0, reaching(ranked.map(weigh), goal)), weigh, u);
}

function reaching(weights: readonly number[], goal: number): number {
  let reached = 0;
  let count = 0;
  while (count < weights.length && (count === 0 || reached < goal)) reached += weights[count++] as number;
  return count;
}

/** How many candidates reach top-p, if both bounds of the sum agree. */
function nucleus(weights: readonly number[], topP: number, { least, most, bound }: Field): number | undefined {
  const [low, high] = [reaching(weights, topP * least), reaching(weights, topP * most)];
  const all = weights.reduce((sum, weight) => sum + weight, 0);
  const enough = all >= topP * most || bound === Number.NEGATIVE_INFINITY;
  return low === high && enough ? low : undefined;
}

function ofAll({ tokens, bound, least, most }: Field, weigh: (token: Token) => number, u: number): number | undefined {
  let reached = 0;
  for (const token of tokens.slice(0, firstDrawn)) {
    if (!(token.value > bound)) return undefined;
    reached += weigh(token);
    if (reached > u * most) return token.id;
    if (reached > u * least) return undefined;
  }
  return undefined;
}

/** The sampler picks alike: the sum, then the running sum that passes u of it. */
function pick(tokens: readonly Token[], weigh: (token: Token) => number, u: number): number | undefined {
  const weights = tokens.map(weigh);
  const target = u * weights.reduce((sum, weight) => sum + weight, 0);
  let reached = 0;
  let last = 0;
  for (const [i, weight] of weights.entries()) {
    if (weight > 0) last = i;
    reached += weight;
    if (reached > target) return (tokens[i] as Token).id;
  }
  return tokens[last]?.id;
}
