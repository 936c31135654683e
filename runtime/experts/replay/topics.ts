// How much a trace, and each topic of it, uses each expert.
import { expertsIn } from "../../placement/grid.ts";
import { type ExpertTrace, tokensOf } from "./trace.ts";

export interface TopicUse {
  readonly topic: string;
  readonly tokens: number;
  /** [layers][experts]: the part of the layer's choices that went to the expert, times its experts: 1 = an even share. */
  readonly use: readonly (readonly number[])[];
  /** 0 to 1: how much of a layer's choices goes elsewhere than those of all topics together, mean of layers (total variation). */
  readonly apart: number;
}

/** How often each expert of each layer was chosen. */
export function selectionsOf({ ids, topK, grid }: ExpertTrace): number[][] {
  const counts = Array.from({ length: grid.layers }, (_, layer) => new Array<number>(expertsIn(grid, layer)).fill(0));
  for (const [at, id] of ids.entries()) {
    const layer = counts[Math.floor(at / topK) % grid.layers] as number[];
    if (id < layer.length) layer[id] = (layer[id] as number) + 1;
  }
  return counts;
}

export function topicUses({ texts, ids, topK, grid }: ExpertTrace): TopicUse[] {
  const counted = new Map<string, { tokens: number; readonly counts: Float64Array }>();
  const all = new Float64Array(grid.layers * grid.experts);
  let token = 0;
  for (const text of texts) {
    const of = counted.get(text.topic) ?? { tokens: 0, counts: new Float64Array(all.length) };
    counted.set(text.topic, of);
    const until = token + tokensOf([text]);
    of.tokens += until - token;
    for (; token < until; token++)
      for (let at = 0; at < grid.layers * topK; at++) {
        const [layer, id] = [Math.floor(at / topK), ids[token * grid.layers * topK + at] as number];
        if (id >= expertsIn(grid, layer)) continue;
        const cell = layer * grid.experts + id;
        of.counts[cell] = (of.counts[cell] as number) + 1;
        all[cell] = (all[cell] as number) + 1;
      }
  }
  const shares = (counts: Float64Array, layer: number): number[] => {
    const row = [...counts.subarray(layer * grid.experts, layer * grid.experts + expertsIn(grid, layer))];
    const total = row.reduce((a, b) => a + b, 0);
    return row.map((count) => count / Math.max(1, total));
  };
  const layers = [...Array(grid.layers).keys()].filter((layer) => expertsIn(grid, layer) > 0);
  return [...counted].map(([topic, { tokens, counts }]) => {
    const apart = layers.map((layer) => {
      const together = shares(all, layer);
      return shares(counts, layer).reduce((sum, share, i) => sum + Math.abs(share - (together[i] as number)), 0) / 2;
    });
    return {
      topic,
      tokens,
      use: layers.map((layer) => shares(counts, layer).map((share) => share * expertsIn(grid, layer))),
      apart: apart.reduce((a, b) => a + b, 0) / Math.max(1, apart.length),
    };
  });
}
