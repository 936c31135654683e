// The last question before replicas are written: whether they are the autoscaler's to set, and to what. Pure.
import { annotations } from "../../../../crds/common.ts";
import type { MoEDeployment } from "../../../../crds/moe-deployment.ts";
import { parseDuration } from "../../../../crds/quantity.ts";
import type { Verdict } from "../world.ts";
import type { AutoscaleInput, Decision } from "./decide.ts";
import type { Ownership } from "./owner.ts";

export interface WriteInput {
  readonly input: AutoscaleInput;
  readonly decision: Decision;
  readonly owner: Ownership;
  /** Ranks that are wanted until a changed number takes effect. */
  readonly present: number;
  readonly metadata: Pick<MoEDeployment["metadata"], "name" | "namespace">;
}

export interface Write {
  readonly verdict: Verdict;
  /** Undefined: nothing is written. */
  readonly to: number | undefined;
}

export function whetherToWrite({ input, decision, owner, present, metadata }: WriteInput): Write {
  const { replicas, spec, lastScale, now } = input;
  const stops = (reason: string, message: string): Write => ({ verdict: { status: "False", reason, message }, to: undefined });
  if (owner.type === "applied")
    return stops(
      "ReplicasApplied",
      `"${owner.manager}" applies spec.replicas, ${replicas} now, and would set it back: leave spec.replicas out there, and the autoscaler goes on`,
    );
  if (owner.type === "taken") {
    const resume = `kubectl annotate moed ${metadata.name} -n ${metadata.namespace} --overwrite ${annotations.resumeAutoscale}=${owner.time}`;
    return stops(
      "ReplicasTaken",
      `"${owner.manager}" has set spec.replicas to ${replicas} at ${owner.time} since the autoscaler set ${lastScale?.to}; nothing is scaled until it is handed back: ${resume}`,
    );
  }
  // What was left out of an applied object falls to its default: the ranks that are there stay until the load says otherwise.
  const restored = owner.type === "nobody" && replicas < present ? Math.min(present, spec.max) : 0;
  const to = Math.max(decision.to, restored);
  const same = { verdict: decision.verdict, to: undefined };
  if (to === replicas) return same;
  // A step whose status was lost with the process that made it counts all the same.
  const setAt = owner.type === "ours" && owner.setAt !== undefined ? Date.parse(owner.setAt) : undefined;
  const direction = to > replicas ? "scaleUp" : "scaleDown";
  const periodMs = parseDuration(spec.behaviour[direction].period, `spec.elasticity.autoscale.behaviour.${direction}.period`);
  const isUntold = setAt !== undefined && setAt > (lastScale ? Date.parse(lastScale.time) + toldWithinMs : 0);
  if (isUntold && now - setAt < periodMs) return same;
  if (to === decision.to) return { verdict: decision.verdict, to };
  const message = `replicas ${replicas} -> ${to}: nobody gives spec.replicas any more, and ${present} ranks are there`;
  return { verdict: { status: "True", reason: "Restored", message }, to };
}

/** The time of a write is the API server's, that of the status ours. */
const toldWithinMs = 5_000;
