// The runtime image of a deployment, kept until its owner asks for another. DECISIONS.md 4. Pure.
import type { MoEDeploymentSpec } from "../../../crds/moe-deployment.ts";
import type { MoEDeploymentStatus } from "../../../crds/moe-deployment-status.ts";
import type { ImageRollout } from "../../../crds/names.ts";
import type { PodFacts, RuntimeImage } from "./snapshot.ts";
import type { Verdict } from "./world.ts";

const followsOperator: Readonly<Record<ImageRollout, boolean>> = { Manual: false, Auto: true };

export interface ImageSources {
  readonly spec: MoEDeploymentSpec;
  readonly status: MoEDeploymentStatus;
  /** The image of the last accepted spec. */
  readonly accepted: string | undefined;
  readonly pods: readonly PodFacts[];
  readonly offered: string;
  /** The workers' template names it, which is no pin. */
  readonly own: string | undefined;
}

export function pinnedImage({ spec, status, accepted, pods, offered, own }: ImageSources): string {
  const { image, rollout } = spec.runtimeImage;
  if (image !== undefined) return image;
  if (followsOperator[rollout]) return offered;
  if (own !== undefined) return accepted ?? offered;
  const newest = pods.filter((pod) => pod.image !== "").sort((a, b) => b.createdMs - a.createdMs)[0];
  return accepted ?? status.runtimeImage?.image ?? newest?.image ?? offered;
}

export function imageStatus({ pinned, offered, own }: RuntimeImage): NonNullable<MoEDeploymentStatus["runtimeImage"]> {
  if (own !== undefined) return { image: own };
  return pinned === offered ? { image: pinned } : { image: pinned, available: offered };
}

export function imageVerdict({ pinned, offered, own }: RuntimeImage, { name, namespace }: { name: string; namespace: string }): Verdict {
  if (own !== undefined) return { status: "True", reason: "OwnImage", message: `spec.podTemplate names the image: ${own}` };
  if (pinned === offered) return { status: "True", reason: "UpToDate", message: `${pinned} is the image that the operator comes with` };
  const patch = JSON.stringify({ spec: { runtimeImage: { image: offered } } });
  const message = `runs ${pinned}, the operator comes with ${offered}; to roll to it: kubectl patch moed ${name} -n ${namespace} --type=merge -p '${patch}'`;
  return { status: "False", reason: "AnotherImageAvailable", message };
}
