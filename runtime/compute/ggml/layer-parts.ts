// A layer's parts in graphs of several: its block and its experts' slab.
import type { MoeLayer } from "../../kernels/segment.ts";
import type { ExpertGraphs, ExpertShape } from "./expert-graphs.ts";
import type { KvGraph } from "./kv.ts";
import type { DenseProgram } from "./program.ts";
import type { Slab } from "./slab.ts";

const nodes = { perOp: 5, perExpert: 3, perLayer: 8 } as const;

export interface SlabHolder {
  readonly whole: Slab | undefined;
  /** On a processor: what computes its experts' rows where they are sorted, and the slabs of their forms; set while all are here. */
  readonly sorted?: { readonly graphs: ExpertGraphs; readonly slabs: ReadonlyMap<ExpertShape, Slab> } | undefined;
  /** On a device: where its experts lie, all of which are in the slab; undefined while some have memory of their own. */
  readonly parted?: { readonly slab: Slab | undefined; readonly slotOf: (expert: number) => number | undefined } | undefined;
}

export interface Part {
  readonly program: DenseProgram;
  readonly moe: MoeLayer | undefined;
  readonly expertSlab: SlabHolder | undefined;
  /** False where a graph cannot choose among its experts, or its rows are wider than the rows they are added to. */
  readonly choosable: boolean;
}

export function nodesOf({ program, moe }: Part, kv: KvGraph): number {
  return program.nodes(kv) + (moe === undefined ? 0 : expertNodesOf(moe));
}

export const expertNodesOf = ({ expert, topK }: MoeLayer): number =>
  nodes.perOp * expert.ops.length + nodes.perExpert * topK + nodes.perLayer;
