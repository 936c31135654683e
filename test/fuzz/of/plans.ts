// Placements as they are stored, in the text form of ExpertPlacements: what is taken is within the bounds of a plan and comes back alike.
import assert from "node:assert/strict";
import { AppError } from "../../../crds/common.ts";
import { expertPlacementSpecSchema } from "../../../crds/expert-placement.ts";
import { encodeLayer, type PlacementPlan, planBounds, weightsTotal } from "../../../crds/plan.ts";
import { fromSpec, newestOf } from "../../../operator/rebalance/rollout/plan-object.ts";
import { diffPlans } from "../../../runtime/placement/diff.ts";
import { type Fuzzer, unguarded } from "../fuzzer.ts";
import { damaged, damagedJson, type Random } from "../mutate.ts";
import { chance, number, text } from "../words.ts";

/** Rows of one layer in text form: mostly hosts with weights that sum to 1000. */
export function layerOf(random: Random, layer: number): { layer: number; epoch: number; hosts: string; weights: string } {
  const experts = chance(random, 3) ? random(5_000) : random(9);
  const rows = Array.from({ length: experts }, () => {
    const first = random(chance(random, 5) ? 20_000 : 8);
    const hosts = Array.from({ length: 1 + random(chance(random, 2) ? 600 : 3) }, (_, i) => first + i);
    const weights = hosts.map(() => Math.floor(weightsTotal / hosts.length));
    weights[0] =
      (weights[0] as number) + weightsTotal - weights.reduce((sum, one) => sum + one, 0) + (chance(random, 3) ? random(3) - 1 : 0);
    return { hosts, weights };
  });
  const joined = (key: "hosts" | "weights") => rows.map((row) => row[key].join(".")).join(",");
  const spoiled = (given: string) => (chance(random, 8) ? damaged(Buffer.from(given), random, 40).toString("latin1") : given);
  return { layer, epoch: random(9), hosts: spoiled(joined("hosts")), weights: spoiled(joined("weights")) };
}

/** Holds of every plan that is taken. */
export function withinBounds({ layers }: PlacementPlan): void {
  assert.ok(layers.length <= planBounds.layers);
  for (const { hosts, weights } of layers) {
    assert.ok(hosts.length <= planBounds.experts && hosts.length === weights.length);
    for (const [expert, row] of hosts.entries()) {
      assert.ok(row.length >= 1 && row.length <= planBounds.hostsPerExpert && new Set(row).size === row.length);
      assert.equal(
        weights[expert]?.reduce((sum, one) => sum + one, 0),
        weightsTotal,
      );
    }
  }
}

function specOf(random: Random): unknown {
  const spec = {
    ...{ deploymentUID: "uid", epoch: chance(random, 95) ? random(100) : number(random), parentEpoch: random(100), planHash: text(random) },
    modelDigest: "digest",
    ranks: Array.from({ length: random(4) }, (_, rank) => ({ rank, podName: `moe-${rank}`, podUID: `uid-${rank}` })),
    layers: Array.from({ length: random(4) }, (_, layer) => layerOf(random, chance(random, 95) ? layer : random(2_000))),
  };
  return chance(random, 15) ? damagedJson(spec, random) : spec;
}

const subject = { read: fromSpec };

export const plans: Fuzzer<typeof subject, unknown> = {
  name: "plans",
  share: 160,
  deadlineMs: 5_000,
  refusals: ["InvalidPlan", "InvalidSpec"],
  start: () => subject,
  input: specOf,
  attempt({ read }, given) {
    const parsed = expertPlacementSpecSchema.safeParse(given);
    if (!parsed.success) throw new AppError("not a plan", { code: "InvalidSpec" });
    const plan = read(parsed.data);
    withinBounds(plan);
    const layers = plan.layers.map((layer) => ({ layer: layer.layer, epoch: layer.epoch, ...encodeLayer(layer) }));
    assert.deepEqual(read({ ...parsed.data, layers }).layers, plan.layers, "what is read is written alike");
    newestOf([plan, plan], plan.layers.length);
    assert.deepEqual(
      diffPlans(plan.layers, plan.layers, () => 1),
      { moves: [], drops: [], layers: [] },
      "a plan differs from itself",
    );
  },
  plant: () => ({ read: unguarded(fromSpec, /do not sum to/) }),
};
