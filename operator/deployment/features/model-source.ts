// Decides which model the ranks have, and whether they mount it or read it from a weight server. First, since downloads and weight servers
// follow from it. Pure.
import type { MoEDeployment, MoEDeploymentSpec } from "../../../crds/moe-deployment.ts";
import { holdsModel } from "../core/rollout.ts";
import { living, type PodFacts } from "../core/snapshot.ts";
import { type ModelOf, ofModel } from "../objects/context.ts";
import { greenName, mayBeGreen } from "../objects/green.ts";
import { rankModelText } from "../objects/model-place.ts";
import type { Accepted } from "../objects/revision.ts";
import { mountsClaim } from "../objects/worker-pod.ts";
import type { Observed } from "../observed.ts";
import { feature } from "./feature.ts";

/** The model that the weight server keeps although the spec names another. `asks`: the spec is not judged yet. */
export interface KeptModel extends ModelOf {
  readonly asks: boolean;
}

export const source = feature({
  needs: {},
  run: (observed) => {
    const keeps = observed.remoteStore ? keptModel(observed) : undefined;
    const model = rankModelText(ofModel(observed.deployment, keeps).spec);
    return { keeps, tried: isTried(observed), serving: living(observed.pods).some((pod) => pod.ready && pod.model === model) };
  },
});

/** The strategy keeps the ranks of the stable model though `to` has another. */
export const holds = ({ spec }: MoEDeployment, pods: readonly PodFacts[], stable: Accepted, to: MoEDeploymentSpec | undefined): boolean =>
  to !== undefined && holdsModel({ strategy: spec.rolloutStrategy, pods, stable: rankModelText(stable.spec), wanted: rankModelText(to) });

/** A green deployment is to try another model than the ranks have. */
function isTried({ deployment, pods, rendered, memory }: Observed): boolean {
  const { accepted, wanted, gateway } = rendered;
  if (!accepted || rankModelText(accepted.spec) === rankModelText(deployment.spec)) return false;
  const green = greenName({ deployment, templates: [wanted.hash, gateway.hash] });
  return mayBeGreen(deployment) && memory.greenNoCapacity !== green && servesOn(deployment, pods);
}

/** The ranks keep their model while the spec is held, rolled back, refused, or tried by a green deployment. */
function keptModel(observed: Observed): KeptModel | undefined {
  const { deployment, pods, rendered } = observed;
  const { spec, status, metadata } = deployment;
  const { accepted, stable, rolledBack } = rendered;
  const held = !rolledBack && stable && holds(deployment, pods, stable, spec) ? stable : undefined;
  const before = held ?? accepted;
  if (!before || rankModelText(before.spec) === rankModelText(spec) || mountsClaim(before.template)) return undefined;
  const kept = { model: before.spec.model, expertCodec: before.spec.runtime.expertCodec };
  if (rolledBack !== undefined || held !== undefined || isTried(observed)) return { ...kept, asks: false };
  const accepting = status.conditions?.find(({ type }) => type === "SpecAccepted");
  if (accepting?.observedGeneration !== metadata.generation) return { ...kept, asks: true };
  return accepting?.status === "False" ? { ...kept, asks: false } : undefined;
}

/** The ranks serve while a green deployment tries the spec; once it serves in their place, the model is theirs to get. */
function servesOn({ status }: MoEDeployment, pods: readonly PodFacts[]): boolean {
  const phase = status.rollout?.green?.phase;
  return phase !== "Serving" && (living(pods).some(({ ready }) => ready) || (phase !== undefined && phase !== "Leaving"));
}
