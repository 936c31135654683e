// The world that the rebalance plane gets. After the number of ranks and the autoscaler, which says whose a zero is. Pure.
import type { MoEDeployment } from "../../../crds/moe-deployment.ts";
import { living } from "../core/snapshot.ts";
import type { World } from "../core/world.ts";
import type { Observed } from "../observed.ts";
import { holdMs } from "./autoscale/zero.ts";
import { facts } from "./facts.ts";
import { feature } from "./feature.ts";
import { presentOf, ranks } from "./ranks.ts";
import { type Scale, scale } from "./scale.ts";

export const world = feature({
  needs: { facts, ranks, scale },
  run: (observed, { facts: { snapshot }, ranks: { target }, scale: { remember } }): World => {
    const { metadata, spec } = snapshot.deployment;
    const { namespace, name, uid, generation } = metadata;
    return {
      ...{ ref: { namespace, name }, uid, generation, spec },
      desiredRanks: target.ranks,
      workers: snapshot.pods.filter((pod) => !pod.terminal),
      gateways: observed.gatewayPods,
      holdMs: holdMsOf(observed, snapshot.deployment, remember),
      leaving: living(snapshot.pods).flatMap((pod) => {
        // Whoever deleted it, its processes hand over until the grace period ends.
        const gone = target.ranks === 0 ? ("Stop" as const) : ("Evict" as const);
        const reason = pod.leaving?.reason ?? (pod.terminating ? gone : undefined);
        return reason ? [{ rank: pod.rank, podUid: pod.uid, reason }] : [];
      }),
    };
  },
});

function holdMsOf({ view }: Observed, { spec, status }: MoEDeployment, { zero }: Scale["remember"]): number {
  return holdMs({
    spec,
    autoscale: spec.elasticity.autoscale,
    lastScale: status.autoscale?.lastScale,
    operation: status.operation?.type,
    present: presentOf(status),
    anyActive: view?.members.some(({ active }) => active) ?? false,
    known: zero,
  });
}
