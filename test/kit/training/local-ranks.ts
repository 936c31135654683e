// All ranks of a run in one process: each with memory and backend of its own, joined by loopback or what else is given. One that fails ends
// the step for all.

import { createTraining } from "../../../runtime/compute/open-training.ts";
import type { TrainingBackend } from "../../../runtime/compute/training.ts";
import { Loopback } from "../../../runtime/net/collectives/loopback.ts";
import type { Hub } from "../../../runtime/net/collectives/transport.ts";
import type { MicroBatch } from "../../../runtime/train/passes/passes.ts";
import { checkMemory } from "../../../runtime/train/ranks/fits.ts";
import { Rank } from "../../../runtime/train/ranks/rank.ts";
import type { RankOptions } from "../../../runtime/train/ranks/rank-options.ts";
import type { StepEnd } from "../../../runtime/train/ranks/step-contract.ts";
import type { RankFacts } from "../../../runtime/train/ranks/step-plan.ts";

export interface WorldOptions extends Omit<RankOptions, "context"> {
  readonly facts: RankFacts;
  readonly threads: number;
}

export class World {
  readonly hub: Hub;
  readonly ranks: readonly Rank[];
  readonly #backends: readonly TrainingBackend[];
  readonly #floats: number;

  private constructor(hub: Hub, ranks: readonly Rank[], backends: readonly TrainingBackend[], floats: number) {
    this.hub = hub;
    this.ranks = ranks;
    this.#backends = backends;
    this.#floats = floats;
  }

  /** As many ranks as `facts` has; `parameters` are laid out as the layout says. */
  static async open(options: WorldOptions, parameters: Float32Array, given?: Hub): Promise<World> {
    const count = options.facts.node.length;
    checkMemory(options, [...options.facts.node.keys()]);
    const { threads, facts, ...rankOptions } = options;
    const hub = given ?? new Loopback(count);
    const [ranks, backends]: [Rank[], TrainingBackend[]] = [[], []];
    try {
      for (let rank = 0; rank < count; rank++) {
        const backend = await createTraining({ threads });
        backends.push(backend);
        const made = await Rank.open(backend, { ...rankOptions, context: { transport: hub.transport(rank), world: 1, facts } });
        made.state.load(parameters);
        ranks.push(made);
      }
      return new World(hub, ranks, backends, options.layout.floats);
    } catch (caught) {
      for (const part of [...ranks, ...backends]) await part.close();
      throw caught;
    }
  }

  /** `micro-batches` of the whole batch; every rank takes its own. Throws the first error once all ranks have ended. */
  async step(step: number, microBatches: readonly MicroBatch[]): Promise<StepEnd> {
    const batch = { microBatch: async (microBatch: number) => microBatches[microBatch] as MicroBatch, documents: async () => "none" };
    let failed: { readonly error: unknown } | undefined;
    const reports = this.ranks.map(async (rank) => {
      try {
        return await rank.step(step, batch);
      } catch (caught) {
        failed ??= { error: caught };
        this.hub.end(caught);
        return undefined;
      }
    });
    const [first] = await Promise.all(reports);
    if (failed !== undefined) throw (failed as { readonly error: unknown }).error;
    return first as StepEnd;
  }

  /** The parameters of all ranks, each from its owner. */
  parameters(): Float32Array {
    const all = new Float32Array(this.#floats);
    for (const rank of this.ranks) rank.state.save(all);
    return all;
  }

  async close(): Promise<void> {
    for (const part of [...this.ranks, ...this.#backends]) await part.close();
  }
}
