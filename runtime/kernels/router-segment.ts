// The router of a layer by itself: rows of any layer -> the experts that it would choose, cut out of the layer's block.
import { kernelOf } from "./index.ts";
import type { MoeLayer, Op, Segment } from "./segment.ts";

/**
 * Its one input is what the norm before the router reads. `width` ids of each row come out, the likeliest first, as many as the layer's
 * top-k where the gate chooses by groups. Undefined where the router reads more than its rows.
 */
export function routerSegment({ block, experts, topK }: MoeLayer, width: number): Segment | undefined {
  const made = new Map(
    block.ops.flatMap((op) =>
      kernelOf(op)
        .outputs(op)
        .map(({ name }) => [name, op] as const),
    ),
  );
  const norm = made.get("f");
  const route = made.get("ids");
  if (norm?.op !== "rmsNorm" || route === undefined) return undefined;
  const weights = new Set(block.weights.map(({ name }) => name));
  const needed = new Set<Op>();
  const open = [route];
  for (let op = open.pop(); op !== undefined; op = open.pop()) {
    needed.add(op);
    for (const name of kernelOf(op).reads(op)) {
      const by = made.get(name);
      if (weights.has(name) || name === norm.x || (by !== undefined && needed.has(by))) continue;
      if (by === undefined) return undefined;
      open.push(by);
    }
  }
  const wide = route.op === "route" ? Math.max(topK, Math.min(width, experts)) : topK;
  const ops = block.ops.filter((op) => needed.has(op)).map((op) => (op.op === "route" ? { ...op, topK: wide } : op));
  const read = new Set(ops.flatMap((op) => kernelOf(op).reads(op)));
  return {
    name: `${block.name}.router`,
    inputs: [{ name: norm.x, dtype: "f32", width: widthOfNorm(block, norm.weight) }],
    outputs: [{ name: "ids", dtype: "i32", width: wide }],
    weights: block.weights.filter(({ name }) => read.has(name)),
    ops,
  };
}

const widthOfNorm = ({ weights }: Segment, weight: string): number => weights.find(({ name }) => name === weight)?.shape[0] ?? 0;
