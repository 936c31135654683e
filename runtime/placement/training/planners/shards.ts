// Primaries of all layers by Hecate's Algorithm 2; each rank keeps its number of experts.
import { shardPrimaries } from "../../shard.ts";
import type { LayerProblem } from "./planner.ts";

export function shardedPrimaries(layers: readonly LayerProblem[]): number[][] {
  const [first] = layers;
  const stay = layers.map(({ primaries }) => primaries.slice());
  if (first === undefined) return stay;
  const experts = Math.max(...stay.map((primaries) => primaries.length));
  const load = new Float64Array(layers.length * experts);
  for (const [layer, problem] of layers.entries()) load.set(Array.from(problem.load), layer * experts);
  const capacity = new Float64Array(first.ranks);
  for (const primary of stay.flat()) capacity[primary] = (capacity[primary] as number) + 1;
  const { ranks, speed, node } = first;
  const bytes = new Float64Array(load.length).fill(1);
  const layerExperts = stay.map((primaries) => primaries.length);
  const top = Math.min(first.overlap, experts);
  return shardPrimaries({ layers: layers.length, experts, layerExperts, ranks, load, bytes, capacity, speed, node, top }) ?? stay;
}
