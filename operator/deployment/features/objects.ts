// The owned objects, and what to ask the API server. Last of the first half, since it depends on how the spec is taken. Pure.
import type { MoEDeployment, MoEDeploymentSpec } from "../../../crds/moe-deployment.ts";
import type { RolledBack } from "../../../crds/rollout.ts";
import type { GangScheduler } from "../../gangs/gang.ts";
import type { Rendered } from "../../kube/apply.ts";
import type { Refusal } from "../../kube/refusal-text.ts";
import { limitRefusals, rememberedFloor } from "../core/capacity.ts";
import { living, type PodFacts } from "../core/snapshot.ts";
import { absentObjects, isGateways, objectsOf } from "../objects/index.ts";
import { rankModelText } from "../objects/model-place.ts";
import type { RenderedPod } from "../objects/worker-pod.ts";
import type { Observed } from "../observed.ts";
import { delivery } from "./delivery.ts";
import { feature } from "./feature.ts";
import { modelChange } from "./model-change.ts";
import { holds } from "./model-source.ts";

export const objects = feature({
  needs: { delivery, modelChange },
  run: (observed, { delivery, modelChange: { deployment, gatewaysWait, modelMissing, front } }) => {
    const { rendered, pods, unreadable, gangs, route } = observed;
    const { workers, gateways, rolledBack, stable, accepted } = rendered;
    const { metadata, spec } = deployment;
    const members = gangs.scheduler ? membersOf(deployment, pods, gangs.scheduler) : 0;
    const gang = gangs.scheduler && members > 0 ? { scheduler: gangs.scheduler, members } : undefined;
    const context = {
      ...rendered.context,
      deployment,
      weightServer: delivery.weightServer,
      gang,
      routable: route.served === "served",
      front,
      firstGateways: observed.firstGateways,
    };
    const failed = rollRefusals(deployment, rolledBack);
    const limits = limitRefusals(spec, workers.limitBytes);
    const unsupported = [...unreadable, ...workers.refusals, ...gateways.refusals, ...gangs.refusals, ...failed, ...limits];
    const pair = gatewayPods(observed, deployment, modelMissing ? accepted?.spec : spec);
    const all = objectsOf(context, { ...pair, unsupported: modelMissing || unsupported.length > 0 });
    const waits = (one: Rendered) => gatewaysWait && isGateways(one, metadata.name);
    const held = !rolledBack && stable !== undefined && holds(deployment, pods, stable, spec);
    return {
      context,
      gang,
      apply: all.filter((one) => !waits(one)),
      absent: absentObjects(context),
      unsupported,
      // Dry-run despite other refusals, so that the status shows all faults at once.
      judges: unreadable.length === 0 && workers.refusals.length === 0 && !rolledBack && !spec.suspend,
      held,
      acceptable: !modelMissing && !held && !spec.suspend,
    };
  },
});

function rollRefusals({ metadata: { name, namespace } }: MoEDeployment, back: RolledBack | undefined): Refusal[] {
  if (!back) return [];
  const { fromRevision, toRevision, reason, message } = back;
  const tried = fromRevision === 0 ? "the spec, which a green deployment tried," : `revision ${fromRevision}`;
  const what = `${tried} was rolled back to revision ${toRevision}: ${reason}: ${message}`;
  return [{ reason: "RolledBack", message: `${what}; correct the spec, or try again with: enodia rollout resume ${name} -n ${namespace}` }];
}

/** Gateways have the ranks' tokenizer, and stay unchanged while a roll is paused or its canaries bake. */
function gatewayPods(
  { rendered, pods }: Observed,
  deployment: MoEDeployment,
  to: MoEDeploymentSpec | undefined,
): { readonly gateway: RenderedPod; readonly before: RenderedPod | undefined } {
  const { accepted, stable, rolledBack, wanted, gateway } = rendered;
  const before = accepted?.gateway;
  if (!stable) return { gateway, before };
  if (!rolledBack && holds(deployment, pods, stable, to)) return { gateway: stable.gateway, before: stable.gateway };
  const waits = rankModelText(stable.spec) === rankModelText(deployment.spec) && waitsForRanks(deployment, wanted.hash);
  return { gateway: waits ? stable.gateway : gateway, before };
}

function waitsForRanks({ spec, status }: MoEDeployment, wantedHash: string): boolean {
  const { paused, canary } = spec.rolloutStrategy;
  const { stableTemplateHash, bakedTemplateHash } = status.rollout ?? {};
  return wantedHash !== stableTemplateHash && (paused || (canary !== undefined && wantedHash !== bakedTemplateHash));
}

/**
 * The ranks that are useful only together: those that hold all experts, and enough to serve; all while the model's size is unknown. Growth
 * and replacements need no gang. Running ranks from before the group count as present.
 */
export function membersOf({ spec, status }: MoEDeployment, pods: readonly PodFacts[], scheduler: GangScheduler): number {
  const ranks = spec.suspend ? 0 : status.expertParallel?.desiredRanks || spec.replicas;
  if (ranks === 0) return 0;
  const together = Math.min(ranks, Math.max(rememberedFloor(status)?.count ?? ranks, spec.failurePolicy.minServingReplicas));
  const outside = living(pods).filter(({ node, gang }) => node !== undefined && gang !== scheduler.name).length;
  return Math.max(1, together - outside);
}
