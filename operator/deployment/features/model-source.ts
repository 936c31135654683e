// Where ranks have their model from, and which one. First, since what is downloaded, and what a weight server offers, follows from it. Pure.
import type { MoEDeployment, MoEDeploymentSpec } from "../../../crds/moe-deployment.ts";
import { holdsModel } from "../core/rollout.ts";
import { living, type PodFacts } from "../core/snapshot.ts";
import { ofModel } from "../objects/context.ts";
import { greenName } from "../objects/green.ts";
import { rankModelText } from "../objects/model-place.ts";
import { workerHash } from "../objects/pod-hash.ts";
import { mountsClaim } from "../objects/worker-pod.ts";
import type { Observed } from "../observed.ts";
import type { Accepted } from "../revision.ts";
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
  /** Undefined where the claim has to be looked at: of a new spec, or where no rank that mounts it has a node. */
  readonly settled: boolean | undefined;
  /** Whether the ranks of the accepted spec have a weight server. */
  readonly before: boolean;
}

interface SourcingInput {
  readonly pods: readonly PodFacts[];
  readonly accepted: Accepted | undefined;
  /** That of pods that name none. */
  readonly image: string;
}

/** Whether ranks have their model from a weight server, as far as it needs no look at the claim. observe.ts asks it before it renders. */
export function sourcing(deployment: MoEDeployment, { pods, accepted, image }: SourcingInput): Sourcing {
  if (deployment.spec.model.cache?.ephemeral) return { settled: true, before: true };
  if (accepted === undefined) return { settled: undefined, before: false };
  const { template } = accepted;
  if (template.hash === workerHash(deployment, image, true)) return { settled: true, before: true };
  if (!mountsClaim(template)) return { settled: undefined, before: true };
  const stands = template.hash === workerHash(deployment, image) && living(pods).some((pod) => pod.node !== undefined);
  return { settled: stands ? false : undefined, before: false };
}

/** True where the strategy keeps the ranks of the stable model though `to` has another. */
export const holds = ({ spec }: MoEDeployment, pods: readonly PodFacts[], stable: Accepted, to: MoEDeploymentSpec | undefined): boolean =>
  to !== undefined && holdsModel({ strategy: spec.rolloutStrategy, pods, stable: rankModelText(stable.spec), wanted: rankModelText(to) });

/** The model of the ranks stays while what the spec asks for is held, was rolled back, is tried by a green deployment, or was refused. */
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

/** Ranks serve on as they are while a green deployment tries the spec, as far as is known. */
function servesOn({ status }: MoEDeployment, pods: readonly PodFacts[]): boolean {
  const phase = status.rollout?.green?.phase;
  return living(pods).some(({ ready }) => ready) || (phase !== undefined && phase !== "Serving" && phase !== "Leaving");
}
