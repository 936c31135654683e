// The judgement that ranks of a spec have their model from a seed, as far as it needs no look at the claim: as they were accepted, so that
// an upgrade rolls nothing, and never for an image that may be of a release without seeds and has its claim. And the model of a seed that
// keeps another than the spec's. Pure.
import type { MoEDeployment } from "../../crds/moe-deployment.ts";
import { living, type PodFacts } from "./core/snapshot.ts";
import type { ModelOf } from "./objects/context.ts";
import { modelPlace, rankModelText } from "./objects/model-place.ts";
import { workerHash } from "./objects/pod-hash.ts";
import { mountsClaim, type RenderedPod, workerImage } from "./objects/worker-pod.ts";
import type { Accepted } from "./revision.ts";

/** `asks`: nobody knows yet whether the spec will be refused. */
export interface KeptModel extends ModelOf {
  readonly asks: boolean;
}

/**
 * The model of the ranks, `before`, which their seed keeps though the spec has another: what the spec asks for is held, was taken back, or
 * is tried by a stand-in with a seed of its own (`stays`), or it was refused. Undefined where the seed is to have the spec's.
 */
export function keptModel({ spec, status, metadata }: MoEDeployment, before: Accepted | undefined, stays: boolean): KeptModel | undefined {
  if (!before || rankModelText(before.spec) === rankModelText(spec) || mountsClaim(before.template)) return undefined;
  const { model, runtime } = before.spec;
  const kept = { model, expertCodec: runtime.expertCodec };
  if (stays) return { ...kept, asks: false };
  const said = status.conditions?.find(({ type }) => type === "SpecAccepted");
  if (said?.observedGeneration !== metadata.generation) return { ...kept, asks: true };
  return said?.status === "False" ? { ...kept, asks: false } : undefined;
}

export interface Seeding {
  /** Undefined where the claim has to be looked at: of a new spec, or where no rank that mounts it has a node. */
  readonly settled: boolean | undefined;
  /** Whether the ranks of the accepted spec have it from one. */
  readonly before: boolean;
}

interface SeedingInput {
  readonly deployment: MoEDeployment;
  readonly pods: readonly PodFacts[];
  readonly accepted: Accepted | undefined;
  /** The image of pods that name none, and the one that the operator comes with. */
  readonly image: string;
  readonly offered: string;
  /** The ranks of this spec as they are without a seed. */
  readonly workers: RenderedPod;
}

export function seedingOf({ deployment, pods, accepted, image, offered, workers }: SeedingInput): Seeding {
  if (deployment.spec.model.cache?.ephemeral) return { settled: true, before: true };
  if (accepted === undefined) return { settled: undefined, before: false };
  const { template, spec } = accepted;
  if (template.hash === workerHash(deployment, image, true)) return { settled: true, before: true };
  if (!mountsClaim(template)) return { settled: undefined, before: true };
  const stands = template.hash === workerHash(deployment, image) && living(pods).some((pod) => pod.node !== undefined);
  const next = workerImage(workers);
  const older = workerImage(template) === next && next !== offered && modelPlace(spec).claim === modelPlace(deployment.spec).claim;
  return { settled: stands || older ? false : undefined, before: false };
}
