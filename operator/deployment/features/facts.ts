// The snapshot that core/ reads, with the spec in effect. After the spec. Pure.
import { compareServed } from "../core/served.ts";
import type { Observed } from "../observed.ts";
import { greenActions } from "./blue-green.ts";
import { feature } from "./feature.ts";

export const facts = feature({
  name: "facts",
  needs: ["delivery", "aim", "blueGreen", "change", "spec"],
  run: (observed, { delivery, aim, blueGreen, change, spec }) => {
    const { pods, orphans, gateway, route, claim, view, now, warmMs } = observed;
    const { look } = blueGreen;
    const bake = canaryBake(observed, spec.template.hash);
    const { pending, revision, away } = delivery;
    return {
      snapshot: {
        ...{ now, deployment: change.deployment, pods, orphans, gateway, route, claim, view },
        templateHash: spec.template.hash,
        rollout: spec.rollout && { ...spec.rollout, comparison: bake?.comparison },
        runtimeImage: spec.runtimeImage,
        refusals: spec.refusals,
        conflicts: spec.conflicts,
        delivery: { pending, revision, away },
        switching: aim.stands === "Stopping",
        green: spec.good || look?.child ? look : undefined,
        warmingUp: warmMs > 0,
      },
      greenActions: greenActions(observed, aim, look, spec.good),
      remember: { canaryBake: bake?.watched },
    };
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
