// The snapshot that core/ reads, with the spec in effect. After the spec. Pure.
import { compareServed } from "../core/canary.ts";
import { judgeStart } from "../core/refused-start.ts";
import type { Snapshot } from "../core/snapshot.ts";
import type { Observed } from "../observed.ts";
import { blueGreen } from "./blue-green.ts";
import { delivery } from "./delivery.ts";
import { feature } from "./feature.ts";
import { modelChange } from "./model-change.ts";
import { spec } from "./spec.ts";

export const facts = feature({
  needs: { delivery, blueGreen, modelChange, spec },
  run: (observed, { delivery, blueGreen: { look }, modelChange, spec }) => {
    const { pods, orphans, gateway, route, claim, view, weightServer, now, warmMs, memory, ticksMs } = observed;
    const bake = canaryBake(observed, spec.template.hash);
    const { pending, revision, away } = delivery;
    const seen: Snapshot = {
      ...{ now, deployment: modelChange.deployment, pods, orphans, gateway, route, claim, view },
      templateHash: spec.template.hash,
      rollout: spec.rollout && { ...spec.rollout, comparison: bake?.comparison },
      runtimeImage: spec.runtimeImage,
      refusals: spec.refusals,
      conflicts: spec.conflicts,
      delivery: { pending, revision, away },
      weightServerEnds: weightServer.pods.flatMap(({ terminating, end }) => (terminating ? [] : (end ?? []))),
      switching: modelChange.state === "Stopping",
      green: spec.good || look?.child ? look : undefined,
      warmingUp: warmMs > 0,
    };
    const refusedStart = judgeStart(seen, memory.refusedStart, ticksMs);
    return { snapshot: { ...seen, refusedStart }, remember: { canaryBake: bake?.watched, refusedStart } };
  },
});

/** Totals of both sides since the canaries bake; undefined without any. */
function canaryBake({ deployment, pods, view, memory }: Observed, templateHash: string) {
  const { bakeStart, templateHash: baking, bakedTemplateHash } = deployment.status.rollout ?? {};
  if (bakeStart === undefined || baking !== templateHash || bakedTemplateHash === templateHash) return undefined;
  const members = view?.members ?? [];
  const of = (isCanary: boolean) => ({ pods: pods.filter((pod) => (pod.templateHash === templateHash) === isCanary), members });
  return compareServed(memory.canaryBake, { bake: `${templateHash}/${bakeStart}`, canaries: of(true), others: of(false) });
}
