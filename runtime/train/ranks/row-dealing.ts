// Deals a layer's row blocks to the hosts of experts, once all ranks know the counts.
import type { Stamp } from "../../net/collectives/transport.ts";
import { type Blocks, dealBlocks } from "../../placement/training/blocks.ts";
import type { Interval } from "../../placement/training/micro-batches.ts";
import { type LayerLoads, loadsOf } from "../../placement/training/spread.ts";
import type { ExpertReplicas } from "./expert-replicas.ts";
import type { Fssdp, Planning, RankFacts } from "./step-plan.ts";

interface DealingOptions {
  readonly planning: Planning;
  readonly replicas: ExpertReplicas;
  readonly fssdp: Fssdp;
  readonly facts: RankFacts;
  readonly intervals: readonly Interval[];
}

/** Who computes a layer's rows, and the stamp of its frames. */
export interface Dealt {
  readonly blocks: Blocks;
  readonly stamp: Stamp;
}

export class RowDealing {
  readonly #options: DealingOptions;
  readonly blocks: Blocks[];
  readonly loads: (LayerLoads | undefined)[];

  constructor(options: DealingOptions) {
    this.#options = options;
    this.blocks = options.replicas.hosts.map(() => []);
    this.loads = options.replicas.hosts.map(() => undefined);
  }

  /** `rows[microBatch][expert]`. Resolves once the hosts have the experts' parameters. */
  async deal(layer: number, rows: readonly Int32Array[]): Promise<Dealt> {
    const { planning, replicas, fssdp, facts, intervals } = this.#options;
    if (planning.late) replicas.place(layer, planning.hostsAfter(layer, columnSums(rows)));
    await replicas.ready(layer);
    const hosts = (replicas.hosts[layer] ?? []).map((row) => [...row]);
    const blocks = dealBlocks(fssdp.dispatch, { rows, hosts, intervals, speed: Float64Array.from(facts.speed) });
    this.blocks[layer] = blocks;
    this.loads[layer] = loadsOf({ rows, blocks, primaries: planning.primaries[layer] ?? [], ranks: facts.speed.length });
    return { blocks, stamp: replicas.stamp(layer) };
  }
}

export function columnSums(counts: readonly ArrayLike<number>[]): Float64Array {
  const sums = new Float64Array(counts[0]?.length ?? 0);
  for (const row of counts) for (let e = 0; e < sums.length; e++) sums[e] = (sums[e] as number) + (row[e] as number);
  return sums;
}
