// The autoscaler's number of ranks. Last, since it waits for the current operation. Pure; autoscaler.ts checks who sets the number.
import type { AutoscaleStatus } from "../../../crds/autoscale.ts";
import type { MoEDeployment } from "../../../crds/moe-deployment.ts";
import { type AutoscaleInput, decide } from "./autoscale/decide.ts";
import { living } from "../core/snapshot.ts";
import type { RankSignals } from "../core/world.ts";
import type { Observed } from "../observed.ts";
import { feature } from "./feature.ts";
import type { Facts, Progress, Ranks } from "./results.ts";

const nothingYet: RankSignals = { spanMs: 0, queuedTokens: 0, kvUse: undefined, tokensPerSecond: undefined };
const off = { input: undefined, decision: undefined, quiet: true, remember: { autoscaleHistory: [], zero: undefined, ownerSeen: false } };

export const scale = feature({
  name: "scale",
  needs: ["facts", "ranks", "progress"],
  run: ({ memory }, { facts, ranks, progress }) => {
    const input = inputOf(facts, ranks, { progress, memory });
    if (!input) return off;
    const { deployment } = facts.snapshot;
    const decision = decide(input);
    const last: AutoscaleStatus["lastScale"] = deployment.status.autoscale?.lastScale;
    const hasShrunk = input.replicas < presentOf(deployment.status);
    const isKnown = !hasShrunk && (last ? last.to === input.replicas : memory.ownerSeen && input.replicas > 0);
    const quiet = isOff(deployment) || (isKnown && decision.to === input.replicas);
    const zero = decision.to === 0 ? memory.zero : undefined;
    return { input, decision, quiet, remember: { autoscaleHistory: decision.history, zero, ownerSeen: memory.ownerSeen } };
  },
});

/** Ranks until a changed number takes effect. */
export const presentOf = ({ expertParallel }: MoEDeployment["status"]): number => expertParallel?.desiredRanks ?? 0;

/** The autoscaler leaves a zero that somebody else set. */
function isOff({ spec, status }: MoEDeployment): boolean {
  const mayBeOurs = spec.elasticity.autoscale?.scaleToZero !== undefined || status.autoscale?.lastScale?.to === 0;
  return spec.suspend || (spec.replicas === 0 && !mayBeOurs);
}

interface Around extends Pick<Observed, "memory"> {
  readonly progress: Progress;
}

function inputOf({ snapshot }: Facts, { floor }: Ranks, { progress, memory }: Around): AutoscaleInput | undefined {
  const { deployment, view, now } = snapshot;
  const { spec, status } = deployment;
  const { autoscale } = spec.elasticity;
  if (!autoscale) return undefined;
  const serving = living(snapshot.pods).filter((pod) => pod.ready && !pod.terminating && !pod.leaving);
  const members = new Map(view?.members.map((member) => [member.podUid, member]));
  // A new leader has not heard everybody yet.
  const unheard = snapshot.warmingUp ? nothingYet : undefined;
  const served = status.conditions?.find(({ type, status: is }) => type === "Available" && is === "True")?.lastTransitionTime;
  return {
    spec: autoscale,
    replicas: spec.replicas,
    suspended: spec.suspend,
    serving: serving.map(({ rank, uid }) => {
      const { signals = unheard, activeRequests } = members.get(uid) ?? {};
      return { rank, signals, activeRequests };
    }),
    gateways: view?.gateways ?? [],
    availableSince: served === undefined ? undefined : Date.parse(served),
    floor,
    operation: progress.operation?.type,
    lastScale: status.autoscale?.lastScale,
    history: memory.autoscaleHistory,
    now: now.getTime(),
  };
}
