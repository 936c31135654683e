// The autoscaler's number of ranks, and whether it is the autoscaler's to set (DECISIONS.md 10). Last, since it waits for the current
// operation. Pure.
import type { AutoscaleStatus } from "../../../crds/autoscale.ts";
import { annotations } from "../../../crds/common.ts";
import { rfc3339 } from "../../../crds/conditions.ts";
import type { MoEDeployment } from "../../../crds/moe-deployment.ts";
import { ranksOfRoles } from "../../../crds/roles.ts";
import type { Memory } from "../core/memory.ts";
import { hasFallen, type Ownership } from "../core/replicas-owner.ts";
import { living } from "../core/snapshot.ts";
import type { RankSignals, Verdict } from "../core/world.ts";
import type { Observed } from "../observed.ts";
import { type AutoscaleInput, type Decision, decide, figures, twoDigits } from "./autoscale/desired-ranks.ts";
import { allHold, isAtZero } from "./autoscale/zero.ts";
import { facts } from "./facts.ts";
import { feature, type ResultOf } from "./feature.ts";
import { progress } from "./progress.ts";
import { presentOf, ranks } from "./ranks.ts";

/** Pause after a copy that may be old. */
const staleMs = 1_000;
const messageMax = 512;
const nothingYet: RankSignals = { spanMs: 0, queuedTokens: 0, kvUse: undefined, tokensPerSecond: undefined };
export interface Scaling {
  readonly verdict: Verdict;
  readonly status: AutoscaleStatus;
  readonly againInMs: number | undefined;
}

export interface Scale {
  /** Undefined without an autoscaler. */
  readonly scaling: Scaling | undefined;
  /** `done` is reported once it is written. */
  readonly write:
    | { readonly from: number; readonly to: number; readonly message: string; readonly subresource: boolean; readonly done: Scaling }
    | undefined;
  readonly remember: Pick<Memory, "autoscaleHistory" | "zero">;
}

const off: Scale = { scaling: undefined, write: undefined, remember: { autoscaleHistory: [], zero: undefined } };

export const scale = feature({
  needs: { facts, ranks, progress },
  run: (observed, { facts, ranks, progress }): Scale => {
    const { memory, replicasOwner: owner } = observed;
    const input = inputOf(facts, ranks, { progress, memory });
    if (!input || !owner) return off;
    const { deployment } = facts.snapshot;
    const decision = decide(input);
    const quiet = !observed.stale && isQuiet(deployment, { input, decision, owner });
    const { autoscaleHistory, zero, ...found } = quiet
      ? { ...keep(decision, last(deployment)), autoscaleHistory: decision.history, zero: decision.to === 0 ? memory.zero : undefined }
      : { ...settle(observed, { deployment, input, decision, owner }), autoscaleHistory: decision.history };
    return { ...found, remember: { autoscaleHistory, zero } };
  },
});

type LastScale = AutoscaleStatus["lastScale"];
const last = ({ status }: Pick<MoEDeployment, "status">): LastScale => status.autoscale?.lastScale;

/** The autoscaler is off, or has set this number and keeps it. */
function isQuiet(deployment: MoEDeployment, { input: { replicas }, decision: { to }, owner }: Omit<Settling, "deployment">): boolean {
  const isOurs = owner.type === "ours" && last(deployment)?.to === replicas && replicas >= presentOf(deployment.status);
  return isOff(deployment) || (isOurs && to === replicas);
}

/** The autoscaler leaves a zero that somebody else set. */
function isOff({ spec, status }: MoEDeployment): boolean {
  const mayBeOurs = spec.elasticity.autoscale?.scaleToZero !== undefined || last({ status })?.to === 0;
  return spec.suspend || (spec.replicas === 0 && !mayBeOurs);
}

interface Settling {
  readonly deployment: MoEDeployment;
  readonly input: AutoscaleInput;
  readonly decision: Decision;
  readonly owner: Ownership;
}

interface Settled extends Pick<Scale, "scaling" | "write"> {
  readonly zero: Scale["remember"]["zero"];
}

function keep(decision: Decision, lastScale: LastScale, more: Partial<Scaling> = {}): Pick<Settled, "scaling" | "write"> {
  return { scaling: { ...scalingOf(decision, lastScale), ...more }, write: undefined };
}

function settle({ stale, memory, now }: Observed, { deployment, input, decision, owner }: Settling): Settled {
  const before = last(deployment);
  const { replicas } = input;
  const present = presentOf(deployment.status);
  if (stale) {
    const verdict = reported(deployment) ?? decision.verdict;
    return { ...keep(decision, before, { verdict, againInMs: staleMs }), zero: memory.zero };
  }
  // The step counts although its status was lost with the process that made it.
  if (owner.type === "ours" && before?.to !== replicas)
    return { ...keep(decision, unreported(present, replicas, now), { againInMs: staleMs }), zero: memory.zero };
  const { to, verdict } = whetherToWrite({ input, decision, owner, present, metadata: deployment.metadata });
  const zero = to === 0 ? "going" : replicas === 0 && isOthers(owner, before) ? "others" : undefined;
  if (to === 0 && !allHold(input.gateways))
    return { ...keep({ ...decision, verdict: notYet(verdict) }, before, { againInMs: staleMs }), zero };
  if (to === undefined) return { ...keep(decision, before, { verdict }), zero };
  const lastScale = { time: rfc3339(now), from: replicas, to, message: verdict.message.slice(0, messageMax) };
  // /scale records no manager for a field without one, nor for 0.
  const write = { from: replicas, to, message: verdict.message, subresource: owner.type !== "nobody" && to > 0 };
  return { scaling: scalingOf(decision, before), write: { ...write, done: { ...scalingOf(decision, lastScale), verdict } }, zero };
}

/** The verdict in the status: it stands while the copy may be older than it. */
export function reported({ status }: MoEDeployment): Verdict | undefined {
  const found = status.conditions?.find(({ type }) => type === "ScalingActive");
  return found && { status: found.status, reason: found.reason, message: found.message };
}

/** Somebody else set or applied this zero. */
const isOthers = ({ type }: Ownership, before: LastScale): boolean =>
  type === "applied" || type === "taken" || (type !== "ours" && before?.to !== 0);

/** The last rank stays until every gateway knows that it is to hold requests. */
function notYet({ message }: Verdict): Verdict {
  return { status: "True", reason: "ScalingToZero", message: `${message}, once every gateway has said that it holds requests` };
}

/** Our own number without a status: the process that set it ended before it wrote one. */
function unreported(from: number, to: number, now: Date): NonNullable<LastScale> {
  return { time: rfc3339(now), from, to, message: "set by an operator that ended before it could say why" };
}

function scalingOf({ verdict, measured, againInMs }: Decision, lastScale: LastScale): Scaling {
  const shown = measured.map(({ name, value, target, ranks }) => ({ name, value: twoDigits(value), target, ranks }));
  const status: AutoscaleStatus = {
    ...(measured.length > 0 && { metrics: shown, progress: figures(measured) }),
    ...(isAtZero(verdict) && { progress: `at zero since ${lastScale?.time}` }),
    ...(lastScale && { lastScale }),
  };
  return { verdict, status, againInMs };
}

interface Around extends Pick<Observed, "memory"> {
  readonly progress: ResultOf<typeof progress>;
}

function inputOf(
  { snapshot }: ResultOf<typeof facts>,
  { floor }: ResultOf<typeof ranks>,
  { progress, memory }: Around,
): AutoscaleInput | undefined {
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
    inRoles: ranksOfRoles(spec.roles),
    operation: progress.operation?.type,
    lastScale: last({ status }),
    history: memory.autoscaleHistory,
    now: now.getTime(),
  };
}

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
