// Seeded synthetic traces: log p = base + topics shared by all layers + noise of each expert, both AR(1); a flash crowd is a jump of a
// topic. Each window is a multinomial draw.
import { type Random, seeded, shuffled } from "../random.ts";
import type { Trace } from "./traces.ts";

export interface TraceModel {
  readonly layers: number;
  readonly experts: number;
  readonly windows: number;
  readonly selections: number;
  /** Each layer's popularity falls as rank^-s, s uniform in this range. */
  readonly zipf: readonly [number, number];
  /** Log-normal noise on that popularity. */
  readonly noise: number;
  readonly topics: number;
  readonly topicSpread: number;
  readonly topicMemory: number;
  readonly ownSpread: number;
  readonly ownMemory: number;
  readonly crowdChance: number;
  readonly crowdSize: number;
}

const deepseek = { layers: 58, experts: 256, windows: 40, selections: 1_000_000, zipf: [0.2, 0.5], noise: 0.4, topics: 12 } as const;
const qwen = { experts: 128, windows: 40, selections: 500_000, zipf: [0.2, 0.5], noise: 0.4, topics: 10, topicSpread: 0.11 } as const;
const qwenTime = { topicMemory: 0.95, ownSpread: 0.1, ownMemory: 0.95, crowdChance: 0.08, crowdSize: 2 } as const;

/** Sizes of known models with the drift and bursts of recorded traffic. */
export const presets = {
  dsv3_drift: { ...deepseek, topicSpread: 0.09, topicMemory: 0.97, ownSpread: 0.1, ownMemory: 0.97, crowdChance: 0.04, crowdSize: 1.5 },
  dsv3_burst: { ...deepseek, topicSpread: 0.12, topicMemory: 0.85, ownSpread: 0.12, ownMemory: 0.9, crowdChance: 0.15, crowdSize: 2.2 },
  qwen3_48x128: { layers: 48, ...qwen, ...qwenTime },
  qwen3_94x128: { layers: 94, ...qwen, ...qwenTime },
  mixtral_32x8: {
    layers: 32,
    experts: 8,
    windows: 40,
    selections: 200_000,
    zipf: [0.05, 0.2],
    noise: 0.1,
    topics: 6,
    topicSpread: 0.08,
    topicMemory: 0.95,
    ownSpread: 0.04,
    ownMemory: 0.95,
    crowdChance: 0.08,
    crowdSize: 1.5,
  },
} as const satisfies Readonly<Record<string, TraceModel>>;
export type PresetName = keyof typeof presets;

const topicDensity = 0.25;
const crowdWindows = [3, 6] as const;

/** The same seed gives the same counts on every machine. */
export function generateTrace(name: string, model: TraceModel, seed: number): Trace {
  const { layers, experts, windows } = model;
  const cells = layers * experts;
  const random = seeded(seed);
  const base = popularity(model, random);
  const loadings = Array.from({ length: model.topics }, () =>
    Float64Array.from({ length: cells }, () => (random.next() < topicDensity ? random.normal() * model.topicSpread * 2 : 0)),
  );
  const topics = Float64Array.from({ length: model.topics }, () => random.normal());
  const own = Float64Array.from({ length: cells }, () => random.normal() * model.ownSpread);
  let crowds: { topic: number; size: number; left: number }[] = [];
  const counts = new Uint32Array(windows * cells);
  const logits = new Float64Array(cells);
  for (let t = 0; t < windows; t++) {
    drift(topics, model.topicMemory, 1, random);
    drift(own, model.ownMemory, model.ownSpread, random);
    if (random.next() < model.crowdChance) {
      const left = crowdWindows[0] + random.below(crowdWindows[1] - crowdWindows[0] + 1);
      crowds.push({ topic: random.below(model.topics), size: model.crowdSize * (0.7 + 0.6 * random.next()), left });
    }
    const level = topics.slice();
    for (const crowd of crowds) level[crowd.topic] = (level[crowd.topic] as number) + crowd.size;
    crowds = crowds.map((crowd) => ({ ...crowd, left: crowd.left - 1 })).filter((crowd) => crowd.left > 0);
    for (let i = 0; i < cells; i++) {
      let sum = (base[i] as number) + (own[i] as number);
      for (let k = 0; k < model.topics; k++) sum += (level[k] as number) * (loadings[k]?.[i] as number);
      logits[i] = sum;
    }
    for (let l = 0; l < layers; l++) {
      const at = l * experts;
      drawSelections(softmax(logits.subarray(at, at + experts)), model.selections, random, counts.subarray(t * cells + at));
    }
  }
  return { name, windows, layers, experts, counts };
}

function popularity(model: TraceModel, random: Random): Float64Array {
  const base = new Float64Array(model.layers * model.experts);
  for (let l = 0; l < model.layers; l++) {
    const s = model.zipf[0] + (model.zipf[1] - model.zipf[0]) * random.next();
    shuffled(model.experts, random).forEach((rank, e) => {
      base[l * model.experts + e] = -s * Math.log(rank + 1) + random.normal() * model.noise;
    });
  }
  return base;
}

function drift(state: Float64Array, memory: number, spread: number, random: Random): void {
  const fresh = Math.sqrt(1 - memory ** 2) * spread;
  for (let i = 0; i < state.length; i++) state[i] = memory * (state[i] as number) + fresh * random.normal();
}

function softmax(logits: Float64Array): Float64Array {
  const top = logits.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  const p = logits.map((x) => Math.exp(x - top));
  const all = p.reduce((a, b) => a + b, 0);
  return p.map((x) => x / all);
}

/** Draws n into out[0..p.length), as a chain of binomials. */
export function drawSelections(p: Float64Array, n: number, random: Random, out: Uint32Array): void {
  let left = n;
  let rest = 1;
  for (let e = 0; e < p.length; e++) {
    const share = p[e] as number;
    const drawn = e === p.length - 1 || rest <= share ? left : binomial(left, Math.min(1, share / rest), random);
    out[e] = drawn;
    left -= drawn;
    rest -= share;
  }
}

const normalFrom = 100;

function binomial(n: number, p: number, random: Random): number {
  if (n <= 0 || p <= 0) return 0;
  if (p >= 1) return n;
  if (p > 0.5) return n - binomial(n, 1 - p, random);
  const variance = n * p * (1 - p);
  if (variance > normalFrom) return Math.max(0, Math.min(n, Math.round(n * p + Math.sqrt(variance) * random.normal())));
  const log = Math.log(1 - p);
  let hits = 0;
  for (let at = Math.ceil(Math.log(1 - random.next()) / log); at <= n; at += Math.max(1, Math.ceil(Math.log(1 - random.next()) / log)))
    hits++;
  return hits;
}
