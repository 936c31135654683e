// What the operator decides window by window on the load of equal ranks, without a cluster: plans for evenness, then for rows that leave
// their rank.
import { parseMoEDeployment } from "../../../crds/moe-deployment.ts";
import type { LayerPlan, PlacementPlan } from "../../../crds/plan.ts";
import type { ModelShape, RankSpec } from "../../../operator/planner/policy.ts";
import { inlinePlanner } from "../../../operator/rebalance/intents/planner-thread.ts";
import { LoadState } from "../../../operator/rebalance/load/load-state.ts";

const windowMs = 15_000;

interface Options {
  readonly policy?: string | undefined;
  readonly maxMoves?: number | undefined;
  /** Unset: also plans for rows that leave their rank. */
  readonly near?: boolean;
}

export class LoadLoop {
  /** Whether a plan is needed, by the last window. */
  asked = "";
  readonly reasons: string[] = [];
  readonly moves: number[] = [];
  layers: readonly LayerPlan[];
  readonly #load: LoadState;
  readonly #shape: ModelShape;
  readonly #ranks: readonly RankSpec[];
  readonly #expected;
  readonly #spec;
  readonly #near: boolean;
  #now = 0;
  #seq = 0;

  constructor(shape: ModelShape, ranks: readonly RankSpec[], layers: readonly LayerPlan[], options: Options = {}) {
    const { policy = "incremental", maxMoves = 64, near = true } = options;
    this.layers = layers;
    this.#shape = shape;
    this.#ranks = ranks;
    this.#near = near;
    this.#load = new LoadState(shape, "uid", 0);
    this.#expected = ranks.map(({ rank, speed }) => ({ rank, bootId: "boot", clockAheadMs: 0, speed }));
    this.#spec = parseMoEDeployment({
      metadata: { name: "moe", namespace: "ns", uid: "uid" },
      spec: { model: { uri: "pvc://models/moe" }, replicas: ranks.length, rebalancing: { policy, budget: { maxMoves } } },
    }).spec;
  }

  /** `routed`: selections by a rank's own tokens, [layers * experts]. True when it changed `layers`. */
  async window(routed: (rank: number) => Uint32Array): Promise<boolean> {
    const { layers, experts } = this.#shape;
    const load = this.#load;
    this.#now += windowMs;
    this.#seq++;
    for (const { rank } of this.#expected) {
      const counts = routed(rank);
      const times = { seq: this.#seq, windowStart: this.#now - windowMs + 1, windowEnd: this.#now };
      const bare = {
        v: 1,
        deploymentUID: "uid",
        bootId: "boot",
        phase: "decode",
        layers,
        experts,
        routed: counts,
        served: counts,
      } as const;
      const accepted = load.accept({ ...bare, ...times, rank }, this.#expected, this.#now);
      if (!accepted.ok) throw new Error(accepted.reason);
    }
    const plan = { layers: this.layers } as PlacementPlan;
    const facts = { synced: true, spec: this.#spec, expected: this.#expected, ranks: this.#ranks, hardware: [], plan };
    load.closeIfDue(facts, this.#now);
    const asked = load.ask(facts, this.#now);
    this.asked = asked.reason;
    const near = this.#near ? load.near(facts, this.#now) : undefined;
    if (!asked.act && !near) return false;
    const input = near ?? load.input(facts);
    const output = await inlinePlanner.plan(near ? "near" : this.#spec.rebalancing.policy, input);
    const { decision, moves } = load.judge(input, output, this.#spec, this.#now);
    if (!decision.act) return false;
    this.layers = output.layers;
    this.reasons.push(decision.reason);
    this.moves.push(moves);
    load.committed(input, output.layers as PlacementPlan["layers"], this.#now, this.#spec.rebalancing.trigger);
    return true;
  }
}
