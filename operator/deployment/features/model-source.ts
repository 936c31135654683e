// Decides which model the ranks have, and whether they mount it or read it from a weight server. First, since downloads and weight servers
// follow from it. Pure.
import type { MoEDeployment, MoEDeploymentSpec } from "../../../crds/moe-deployment.ts";
import { holdsModel } from "../core/rollout.ts";
import { living, type PodFacts } from "../core/snapshot.ts";
import { ofModel } from "../objects/context.ts";
import { greenName } from "../objects/green.ts";
import { rankModelText } from "../objects/model-place.ts";
import { workerHash } from "../objects/pod-hash.ts";
import { mountsClaim } from "../objects/worker-pod.ts";
import type { Observed } from "../observed.ts";
import type { Accepted } from "../objects/revision.ts";
import { mayBeGreen } from "./blue-green.ts";
import { feature } from "./feature.ts";
import type { KeptModel } from "./results.ts";

export const modelSource = feature({
  name: "source",
  needs: [],
  run: (observed) => {
    const keeps = observed.remoteStore ? keptModel(observed) : undefined;
    const model = rankModelText(ofModel(observed.deployment, keeps).spec);
    return { keeps, serving: living(observed.pods).some((pod) => pod.ready && pod.model === model) };
  },
});

export interface Sourcing {
  /** Undefined where the claim must be read: the spec is new, or no rank that mounts it has a node. */
  readonly settled: boolean | undefined;
  /** The accepted spec's ranks have a weight server. */
  readonly before: boolean;
}

interface SourcingInput {
  readonly pods: readonly PodFacts[];
  readonly accepted: Accepted | undefined;
  /** Pods that name no image get this one. */
  readonly image: string;
}

/** Decides without the claim where possible; observe.ts calls it before rendering. */
export function sourcing(deployment: MoEDeployment, { pods, accepted, image }: SourcingInput): Sourcing {
  if (deployment.spec.model.cache?.ephemeral) return { settled: true, before: true };
  if (accepted === undefined) return { settled: undefined, before: false };
  const { template } = accepted;
  if (template.hash === workerHash(deployment, image, true)) return { settled: true, before: true };
  if (!mountsClaim(template)) return { settled: undefined, before: true };
  const stands = template.hash === workerHash(deployment, image) && living(pods).some((pod) => pod.node !== undefined);
  return { settled: stands ? false : undefined, before: false };
}

/** The strategy keeps the ranks of the stable model though `to` has another. */
export const holds = ({ spec }: MoEDeployment, pods: readonly PodFacts[], stable: Accepted, to: MoEDeploymentSpec | undefined): boolean =>
  to !== undefined && holdsModel({ strategy: spec.rolloutStrategy, pods, stable: rankModelText(stable.spec), wanted: rankModelText(to) });

/** The ranks keep their model while the spec is held, rolled back, refused, or tried by a green deployment. */
function keptModel({ deployment, pods, rendered, memory }: Observed): KeptModel | undefined {
  const { spec, status, metadata } = deployment;
  const { accepted, stable, back, wanted, gateway } = rendered;
  const held = !back && stable && holds(deployment, pods, stable, spec) ? stable : undefined;
  const before = held ?? accepted;
  if (!before || rankModelText(before.spec) === rankModelText(spec) || mountsClaim(before.template)) return undefined;
  const kept = { model: before.spec.model, expertCodec: before.spec.runtime.expertCodec };
  const green = greenName({ deployment, templates: [wanted.hash, gateway.hash] });
  const tried = mayBeGreen(deployment) && memory.greenNoCapacity !== green && servesOn(deployment, pods);
  if (back !== undefined || held !== undefined || tried) return { ...kept, asks: false };
  const accepting = status.conditions?.find(({ type }) => type === "SpecAccepted");
  if (accepting?.observedGeneration !== metadata.generation) return { ...kept, asks: true };
  return accepting?.status === "False" ? { ...kept, asks: false } : undefined;
}

/** The ranks serve while a green deployment tries the spec. */
function servesOn({ status }: MoEDeployment, pods: readonly PodFacts[]): boolean {
  const phase = status.rollout?.green?.phase;
  return living(pods).some(({ ready }) => ready) || (phase !== undefined && phase !== "Serving" && phase !== "Leaving");
}
