// The interface of predictors: which experts later layers will choose, from what layers have chosen. Routing never depends on it.
import { topK } from "../../kernels/route.ts";
import { type ExpertGrid, expertsIn } from "../../placement/grid.ts";

/** same: the rows as they enter this layer's router; accelerated: moved on by as much as the last layer changed them. */
export type AheadInput = "same" | "accelerated";

/** Experts of each row, the likeliest first: [rows, width]. */
interface RankedRows {
  readonly ids: Int32Array;
  readonly width: number;
}

/** What the rows of a step chose at a layer. Larger ids than the layer has experts are free experts, which need no memory. */
export interface Choice {
  readonly layer: number;
  readonly ids: Int32Array; // [rows, topK]
  readonly topK: number;
  /** Rows that pass layers while others do have another number; unset: 0. */
  readonly part?: number;
  /** What a later layer's router says of the rows at this one; undefined where nobody asked it. */
  ahead?(layer: number, input: AheadInput): RankedRows | undefined;
}

export interface Predictor {
  /** Learns from a layer, each once per part of a step, ascending. It keeps no array that it is given. */
  observe(choice: Choice): void;
  /** About how many rows of the step will choose each expert of a later layer, after that choice was observed. */
  scores(choice: Choice, layer: number): Float64Array;
}

interface PredictorOptions {
  readonly grid: ExpertGrid;
  /** Unset: 1. */
  readonly seed?: number;
}

export interface PredictorKind {
  /** What people read of it. */
  readonly about: string;
  /** `Choice.ahead` with this input. */
  readonly asks?: AheadInput;
  /** What it learns takes so many at most; unset: next to nothing. */
  readonly tableBytes?: (grid: ExpertGrid) => number;
  /** True if it names whole layers, however many experts are asked for. */
  readonly whole?: boolean;
  /** True where it is of use only if one router chooses for all layers. */
  readonly oneRouter?: boolean;
  create(options: PredictorOptions): Predictor;
}

export interface RankedExpert {
  readonly layer: number;
  readonly expert: number;
  readonly score: number;
}

/** The likeliest `most` experts of each layer: the nearest layer's first, without those that no row is expected to choose. */
export function predict(predictor: Predictor, choice: Choice, layers: readonly number[], most: number): RankedExpert[] {
  return layers.flatMap((layer) => {
    const scores = predictor.scores(choice, layer);
    return topK(scores, Math.min(most, scores.length))
      .map((expert) => ({ layer, expert, score: scores[expert] as number }))
      .filter(({ score }) => score > 0);
  });
}

/** What is remembered of the rows of each part. */
export function ofParts<T>(make: () => T): (choice: Choice) => T {
  const made: T[] = [];
  return ({ part = 0 }) => (made[part] ??= make());
}

/** Rows that a predictor learns from in a step at most: prompts have thousands. */
const rowsMax = 32;

/** The experts of some of the rows, evenly apart and the same ones at every layer of a step, as copies without free experts. */
export function sampledRows({ ids, topK: k, layer }: Choice, grid: ExpertGrid): number[][] {
  const rows = ids.length / k;
  const taken = Math.min(rows, rowsMax);
  const experts = expertsIn(grid, layer);
  return Array.from({ length: taken }, (_, i) => {
    const from = Math.floor((i * rows) / taken) * k;
    return [...ids.subarray(from, from + k)].filter((id) => id < experts);
  });
}

/** The layer with experts before that one; -1 if there is none. */
export function layerBefore(grid: ExpertGrid, layer: number): number {
  let at = layer - 1;
  while (at >= 0 && expertsIn(grid, at) === 0) at -= 1;
  return at;
}

/** The layer with experts behind that one; -1 if there is none. */
export function layerBehind(grid: ExpertGrid, layer: number): number {
  for (let at = layer + 1; at < grid.layers; at++) if (expertsIn(grid, at) > 0) return at;
  return -1;
}

export const rowsIn = ({ ids, topK: k }: Choice): number => ids.length / k;

/** What rows of the layer before a target are expected to choose, where a choice is further away than that: one row for all. */
export function rowsBefore(predictor: Predictor, choice: Choice, layer: number, grid: ExpertGrid): number[][] {
  const before = layerBefore(grid, layer);
  if (before <= choice.layer) return sampledRows(choice, grid);
  return [topK(predictor.scores(choice, before), choice.topK)];
}
