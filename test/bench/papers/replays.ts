// Figures of papers on which experts come next, by replays of a trace over memory for half of the experts and a disk.
import { evictions } from "../../../runtime/experts/cache/index.ts";
import { predictors } from "../../../runtime/experts/prefetch/index.ts";
import { shuffled } from "../../../runtime/experts/replay/recall.ts";
import { type Foresight, needsOf, type Replayed, replay } from "../../../runtime/experts/replay/replay.ts";
import { type ExpertTrace, stepsOf } from "../../../runtime/experts/replay/trace.ts";
import { uniform } from "../../../runtime/kernels/random.ts";

/** Experts come from the disk in so many times the time of a layer. */
const transferLayers = 0.5;

interface Asked {
  readonly foresight?: Foresight;
  readonly eviction?: "lru" | "lfu" | "belady";
  readonly batch?: number;
}

function replayed(trace: ExpertTrace, { foresight, eviction = "lfu", batch = 1 }: Asked): Replayed {
  const bytes = Math.max(...trace.expertBytes);
  return replay({
    ...{ trace, foresight, eviction: evictions[eviction], share: 0.5, batch, lookahead: 2, perTopK: 1 },
    ...{ layerMs: trace.layerMs, bytesPerSecond: (1000 * bytes) / (transferLayers * trace.layerMs) },
  });
}

/** Tokens/s of a predictor to those of loading on demand. */
export function faster(trace: ExpertTrace, foresight: Foresight, batch = 1): number {
  const ms = trace.grid.layers * trace.layerMs;
  const stall = (of: Asked): number => replayed(trace, { ...of, batch }).stallMs;
  return (ms + stall({})) / (ms + stall({ foresight }));
}

/** Hits of path prediction to those of LRU without one. */
export const hitsToLru = (trace: ExpertTrace): number =>
  replayed(trace, { foresight: predictors.path, eviction: "lru" }).hitRate / replayed(trace, { eviction: "lru" }).hitRate;

export const mixed = (trace: ExpertTrace): ExpertTrace => shuffled(trace, uniform(1));

/** The trace with its texts in another order. */
function reordered(trace: ExpertTrace, order: readonly number[]): ExpertTrace {
  const perToken = trace.grid.layers * trace.topK;
  let from = 0;
  const parts = trace.texts.map(({ prompt, generated }) => {
    const part = trace.ids.subarray(from * perToken, (from + prompt + generated) * perToken);
    from += prompt + generated;
    return part;
  });
  const ids = new Uint16Array(trace.ids.length);
  let at = 0;
  for (const text of order) {
    ids.set(parts[text] as Uint16Array, at);
    at += parts[text]?.length ?? 0;
  }
  return { ...trace, texts: order.map((text) => trace.texts[text] as ExpertTrace["texts"][number]), ids, asked: [] };
}

/** Different experts of a step of so many texts. */
function expertsOfStep(trace: ExpertTrace, batch: number): number {
  const steps = stepsOf(trace.texts, batch);
  const needs = needsOf(trace, steps).filter((_, at) => steps[at]?.prompt === false && steps[at]?.tokens.length === batch);
  return needs.reduce((sum, layers) => sum + layers.reduce((each, experts) => each + experts.length, 0), 0) / Math.max(1, needs.length);
}

/** Experts that are loaded once for so many tokens together, to those that each token would load by itself. */
export const loadedOnce = (trace: ExpertTrace, batch: number): number =>
  expertsOfStep(trace, batch) / (batch * trace.topK * trace.expertBytes.filter((bytes) => bytes > 0).length);

/** Experts of batches of texts of one topic, or of any, to those of texts in their order. */
export function batchedExperts(trace: ExpertTrace, by: "topic" | "chance"): number {
  const draw = uniform(3);
  const keys = trace.texts.map(({ topic }) => (by === "topic" ? topic : draw().toFixed(9)));
  const order = [...keys.keys()].sort((a, b) => ((keys[a] as string) < (keys[b] as string) ? -1 : 1));
  const batch = Math.max(2, Math.floor(trace.texts.length / new Set(trace.texts.map(({ topic }) => topic)).size));
  return expertsOfStep(reordered(trace, order), batch) / expertsOfStep(trace, batch);
}

/** The part of all selections that experts take with them if a quarter of each layer's go: the least used, or the first ones. */
export function lostByPruning({ grid, ids, topK }: ExpertTrace, by: "use" | "number"): number {
  const counts = Array.from({ length: grid.layers }, () => new Array<number>(grid.experts).fill(0));
  for (const [at, id] of ids.entries()) {
    const layer = counts[Math.floor(at / topK) % grid.layers] as number[];
    if (id < layer.length) layer[id] = (layer[id] as number) + 1;
  }
  const go = Math.max(1, Math.floor(grid.experts / 4));
  const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);
  const gone = counts.map((layer) => sum((by === "use" ? layer.toSorted((a, b) => a - b) : layer).slice(0, go)));
  return sum(gone) / sum(counts.map(sum));
}
