// Whether replicas are the autoscaler's to set, and to what. Pure.
import { annotations } from "../../../../crds/common.ts";
import { type MoEDeployment, moeDeploymentSpecSchema } from "../../../../crds/moe-deployment.ts";
import type { Verdict } from "../world.ts";
import type { AutoscaleInput, Decision } from "../../features/autoscale/decide.ts";
import type { Ownership } from "../replicas-owner.ts";

export interface WriteInput {
  readonly input: AutoscaleInput;
  readonly decision: Decision;
  readonly owner: Ownership;
  /** Ranks until a changed number takes effect. */
  readonly present: number;
  readonly metadata: Pick<MoEDeployment["metadata"], "name" | "namespace">;
}

export interface Write {
  readonly verdict: Verdict;
  /** Undefined: nothing is written. */
  readonly to: number | undefined;
}

const defaultReplicas = moeDeploymentSpecSchema.shape.replicas.parse(undefined);

/** An applier dropped replicas, and the API server set the default. */
export function hasFallen(owner: Ownership, replicas: number, present: number): boolean {
  return owner.type === "nobody" && replicas === defaultReplicas && replicas < present;
}

export function whetherToWrite({ input, decision, owner, present, metadata }: WriteInput): Write {
  const { replicas, spec, lastScale } = input;
  const stops = (reason: string, message: string): Write => ({ verdict: { status: "False", reason, message }, to: undefined });
  if (owner.type === "applied")
    return stops(
      "ReplicasApplied",
      `"${owner.manager}" applies spec.replicas, ${replicas} now, and would set it back: leave spec.replicas out there, and the autoscaler goes on`,
    );
  if (owner.type === "taken") {
    const resume = `kubectl annotate moed ${metadata.name} -n ${metadata.namespace} --overwrite ${annotations.resumeAutoscale}=${lastScale?.time}`;
    return stops(
      "ReplicasTaken",
      `"${owner.manager}" has set spec.replicas to ${replicas} since the autoscaler set ${lastScale?.to} at ${lastScale?.time}; nothing is scaled until it is handed back: ${resume}`,
    );
  }
  // The present ranks stay until the load says otherwise.
  const restored = hasFallen(owner, replicas, present) ? Math.min(present, spec.max) : 0;
  const to = Math.max(decision.to, restored);
  if (to === replicas) return { verdict: decision.verdict, to: undefined };
  if (to === decision.to) return { verdict: decision.verdict, to };
  const message = `replicas ${replicas} -> ${to}: nobody gives spec.replicas any more, and ${present} ranks are there`;
  return { verdict: { status: "True", reason: "Restored", message }, to };
}
