// How many of the experts that the next layer chooses a predictor names beforehand.
import { expertsIn } from "../../placement/grid.ts";
import { layerBehind, type PredictorKind, predict } from "../prefetch/predictor.ts";
import { needsOf } from "./replay.ts";
import { choiceOf, type ExpertTrace, noExpert, stepsOf } from "./trace.ts";

/** Among as many named experts as the layer chooses, and among twice as many. */
export interface Recall {
  readonly once: number;
  readonly twice: number;
}

export function recallOf(trace: ExpertTrace, kind: PredictorKind, batch: number): Recall {
  const steps = stepsOf(trace.texts, batch);
  const needs = needsOf(trace, steps);
  const predictor = kind.create({ grid: trace.grid });
  const total = { all: 0, once: 0, twice: 0 };
  for (const [at, step] of steps.entries())
    for (let layer = 0; layer < trace.grid.layers; layer++) {
      if (expertsIn(trace.grid, layer) === 0) continue;
      const choice = choiceOf(trace, step, layer);
      predictor.observe(choice);
      const to = layerBehind(trace.grid, layer);
      const wanted = needs[at]?.[to] ?? [];
      if (step.prompt || wanted.length === 0) continue;
      const named = predict(predictor, choice, [to], 2 * wanted.length).map(({ expert }) => expert);
      const among = (most: number) => wanted.filter((expert) => named.slice(0, most).includes(expert)).length;
      total.all += wanted.length;
      total.once += among(wanted.length);
      total.twice += among(2 * wanted.length);
    }
  return { once: total.once / Math.max(1, total.all), twice: total.twice / Math.max(1, total.all) };
}

/** The negative control: each layer's choices go to other tokens, so that only how often experts are chosen stays. */
export function shuffled(trace: ExpertTrace, draw: () => number): ExpertTrace {
  const { grid, topK } = trace;
  const ids = new Uint16Array(trace.ids.length).fill(noExpert);
  const tokens = ids.length / (grid.layers * topK);
  for (let layer = 0; layer < grid.layers; layer++) {
    const order = Array.from({ length: tokens }, (_, token) => ({ token, key: draw() })).sort((a, b) => a.key - b.key);
    for (const [to, { token: from }] of order.entries()) {
      const at = (from * grid.layers + layer) * topK;
      ids.set(trace.ids.subarray(at, at + topK), (to * grid.layers + layer) * topK);
    }
  }
  return { ...trace, ids, asked: [] };
}

/** True if every token has the same experts at all layers, as where one router chooses for all of them. */
export function hasOneRouter({ grid, ids, topK }: ExpertTrace): boolean {
  const perToken = grid.layers * topK;
  return ids.every((id, at) => id === ids[at - (at % perToken) + (at % topK)]);
}
