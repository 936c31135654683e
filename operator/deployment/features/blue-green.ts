// The green deployment of a change of model or codec (DECISIONS.md 5). After the target spec, which shows the change; before the change,
// which a green deployment delays. Pure; green-actions.ts follows.
import { type Condition, rfc3339 } from "../../../crds/conditions.ts";
import type { MoEDeploymentSpec } from "../../../crds/moe-deployment.ts";
import { parseDuration } from "../../../crds/quantity.ts";
import type { GreenStatus, RolloutAnalysis } from "../../../crds/rollout.ts";
import { compareServed, judgeCanaries, judgesByTime, type Watched } from "../core/canary.ts";
import type { Front, GreenFacts, GreenStep, Sizes } from "../core/green-look.ts";
import { judgePods, rollsBackOn } from "../core/rollout.ts";
import { living, type PodFacts, wantedGateways } from "../core/snapshot.ts";
import type { Comparison } from "../core/world.ts";
import { greenName, mayBeGreen } from "../objects/green.ts";
import { rankModelText } from "../objects/model-place.ts";
import type { GreenSeen, Observed } from "../observed.ts";
import { feature } from "./feature.ts";
import { type ModelStage, type TargetSpec, targetSpec } from "./target-spec.ts";

export const blueGreen = feature({
  needs: { targetSpec },
  run: (observed, { targetSpec: { accepted, wanted, ...target } }) => {
    const { deployment, memory, ticksMs, green } = observed;
    const { spec } = deployment;
    const name = greenName({ deployment, templates: wanted.templates });
    const sameModel = accepted !== undefined && rankModelText(accepted) === rankModelText(spec);
    const noCapacity = sameModel ? undefined : memory.greenNoCapacity;
    const possible = mayBeGreen(deployment) && noCapacity !== name ? name : undefined;
    const bake = compared(observed);
    const child = green && factsOf(green, observed);
    const step = greenStep({ ...inputOf(observed, target), possible, child, comparison: bake?.comparison });
    const { greenRefused } = memory;
    const refused = step.act === "Create" && greenRefused?.name === possible && ticksMs < (greenRefused?.untilMs ?? 0);
    const lacks = target.stage === "Accepting" && (refused || (child !== undefined && child.noCapacity !== "" && !step.holds));
    const look = !step.status || refused ? undefined : { ...step, child, templateHash: wanted.templates[0] };
    const remember = { greenNoCapacity: lacks && possible !== undefined ? possible : noCapacity, greenBake: bake?.watched };
    return { look, remember };
  },
});

type StepInput = Omit<GreenInput, "possible" | "child" | "comparison">;

function inputOf(observed: Observed, { spec: target, stage }: Pick<TargetSpec, "spec" | "stage">): StepInput {
  const { deployment, pods, gateway, front, now } = observed;
  const { spec, status } = deployment;
  const ready = living(pods).filter((pod) => pod.ready && !pod.terminating && !pod.leaving);
  const same = target ? ready.filter(({ model }) => model === undefined || model === rankModelText(target)) : [];
  const sizes = sizesOf(observed);
  return {
    now,
    stage,
    wanted: !spec.suspend && spec.replicas > 0,
    own: {
      serves: ready.length > 0 && gateway.ready > 0,
      whole: same.length >= spec.replicas && gateway.ready >= neededOf(spec, sizes.gateways),
    },
    front,
    rollsBack: rollsBackOn(spec.rolloutStrategy),
    analysis: spec.rolloutStrategy.canary?.analysis,
    sizes,
    drainMs: parseDuration(spec.elasticity.drain, "spec.elasticity.drain"),
    last: status.rollout?.green,
  };
}

export const sizesOf = ({ deployment, gateway }: Pick<Observed, "deployment" | "gateway">): Sizes => ({
  ranks: deployment.spec.replicas,
  gateways: Math.max(1, wantedGateways({ deployment, gateway })),
});

/** Gateways without which a side does not serve. Where nobody has named a number, the nodes may have room for one only. */
const neededOf = ({ gateway }: MoEDeploymentSpec, all: number): number => ((gateway.replicas ?? gateway.autoscale) ? all : 1);

/** Totals of both sides since the bake began. */
function compared({ deployment, pods, green, view, memory }: Observed): { comparison: Comparison; watched: Watched } | undefined {
  const { green: last } = deployment.status.rollout ?? {};
  if (!green || last?.name !== green.name || last.phase !== "Baking") return undefined;
  return compareServed(memory.greenBake, {
    bake: `${green.name}/${last.since}`,
    canaries: { pods: green.workers, members: green.members },
    others: { pods: living(pods), members: view?.members ?? [] },
  });
}

function factsOf(green: GreenSeen, { deployment, now }: Observed): GreenFacts {
  const { name, uid, terminating, spec, status, generation, createdMs } = green;
  const { conditions = [], gateway, observedGeneration = 0 } = status;
  const holds = (type: string) => conditions.some((one) => one.type === type && one.status === "True");
  const fronts = (gateway?.readyReplicas ?? 0) >= neededOf(deployment.spec, Math.max(1, gateway?.replicas ?? 1));
  const { green: last } = deployment.status.rollout ?? {};
  const startMs = last?.name === name ? startOf(last, { createdMs, nowMs: now.getTime() }) : createdMs;
  const { progressDeadline } = deployment.spec.rolloutStrategy;
  return {
    name,
    uid,
    terminating,
    suspended: spec.suspend === true,
    serves: observedGeneration >= generation && holds("Ready") && holds("Available") && fronts,
    pods: green.pods,
    sizes: { ranks: spec.replicas ?? 0, gateways: spec.gateway?.replicas ?? 1 },
    ...judgeGreen({ startMs, conditions, pods: green.workers }, { progressDeadline, now }),
  };
}

/** Its time to start; a stop, or a wait for more gateways, resets it. */
function startOf({ phase, since }: GreenStatus, { createdMs, nowMs }: { readonly createdMs: number; readonly nowMs: number }): number {
  return phase === "Baking" ? nowMs : Math.max(createdMs, Math.min(nowMs, Date.parse(since)));
}

/** Time for clients to notice new endpoints before the old ones stop. */
export const heardOfMs = 10_000;
const compareMs = 10_000;
/** A suspended green deployment is deleted at the latest after this and `elasticity.drain`. */
const stopSlackMs = 150_000;

export interface GreenInput {
  readonly now: Date;
  /** Its name; undefined where the strategy or the object allows none. */
  readonly possible: string | undefined;
  readonly stage: ModelStage;
  readonly wanted: boolean;
  readonly own: {
    /** A rank and a gateway of the deployment itself serve. */
    readonly serves: boolean;
    readonly whole: boolean;
  };
  readonly child: GreenFacts | undefined;
  readonly front: Front;
  readonly rollsBack: boolean;
  readonly analysis: RolloutAnalysis | undefined;
  readonly comparison: Comparison | undefined;
  readonly sizes: Sizes;
  readonly drainMs: number;
  readonly last: GreenStatus | undefined;
}

const idle: GreenStep = {
  front: "Own",
  act: "None",
  holds: false,
  failure: undefined,
  status: undefined,
  phase: "Waiting",
  message: "",
  againInMs: undefined,
};

export function greenStep(input: GreenInput): GreenStep {
  const { child } = input;
  if (!child) return begin(input);
  const here = !child.terminating && !child.suspended;
  const called = here && input.wanted && input.stage === "Accepting" && child.name === input.possible;
  if (isNeeded(input, child, called)) return serveInstead(input, child);
  return called ? rise(input, child) : leave(input, child);
}

/** Ranks that do not serve change at once. */
function begin({ wanted, stage, possible, own, now }: GreenInput): GreenStep {
  if (!wanted || stage !== "Accepting" || possible === undefined || !own.serves) return idle;
  const status: GreenStatus = { name: possible, phase: "Starting", since: rfc3339(now) };
  return { ...idle, act: "Create", holds: true, status, phase: "Creating", message: `green deployment ${possible} is made` };
}

/** It keeps the Service until all ranks serve the new model, or until it fails while some serve. */
function isNeeded({ wanted, stage, own, front }: GreenInput, child: GreenFacts, called: boolean): boolean {
  if (!wanted) return false;
  // The ranks do not serve the canary's model, and it is judged all the same.
  if (front === "Both" && called) return false;
  if (front !== "Green") return child.serves && !child.terminating && !own.serves;
  if (child.terminating || !child.serves) return !own.serves;
  return !(stage === "Same" && own.whole);
}

function serveInstead(input: GreenInput, child: GreenFacts): GreenStep {
  const { stage } = input;
  const { status, ageMs } = statusOf(input, child, "Serving");
  const leftMs = Math.max(0, heardOfMs - ageMs);
  const step = { ...idle, front: "Green" as const, status, phase: "GreenServing" as const };
  const serves = `green deployment ${child.name} serves in their place`;
  if (stage === "Same") return { ...step, message: `${serves} until all ranks serve the new model` };
  if (leftMs === 0 || stage === "Stopping") return { ...step, message: `${serves} while the ranks change their model` };
  // Some clients have not noticed the new endpoints yet.
  return { ...step, holds: true, message: `${serves}; the ranks change their model in ${Math.ceil(leftMs / 1000)} s`, againInMs: leftMs };
}

function rise(input: GreenInput, child: GreenFacts): GreenStep {
  const { failure, noCapacity, serves, dueInMs, message } = child;
  const { analysis } = input;
  const before = input.last?.name === child.name ? input.last.phase : "Starting";
  const baked = before === "Baked";
  if (serves && analysis && !baked) return bake(input, child, analysis);
  if (serves) return lead(input, child, baked);
  const hasServed = before === "Baking" || before === "Returning" || baked;
  const { status } = statusOf(input, child, baked ? "Baked" : hasServed ? "Returning" : "Starting");
  const step = { ...idle, holds: true, status, phase: "Creating" as const };
  if (failure && input.rollsBack) return { ...step, failure, message: failure.message };
  if (noCapacity !== "" && !hasServed) return { ...step, holds: false, message: capacityText(child) };
  // It had capacity before, so that a later lack of it is no reason to go without.
  if (noCapacity !== "" && dueInMs === undefined && input.rollsBack)
    return { ...step, failure: { reason: "ProgressDeadlineExceeded", message: noCapacity }, message: noCapacity };
  const says = failure?.message ?? (noCapacity || message);
  return { ...step, message: `green deployment ${child.name} does not serve yet${says === "" ? "" : `: ${says}`}`, againInMs: dueInMs };
}

/** Its gateways get their share of new connections, and nothing takes effect. */
function bake(input: GreenInput, child: GreenFacts, analysis: RolloutAnalysis): GreenStep {
  const { status, ageMs } = statusOf(input, child, "Baking");
  const step = { ...idle, holds: true, status, phase: "Baking" as const };
  const begun = input.last?.name === child.name && input.last.phase === "Baking";
  const verdict = judgeCanaries(analysis, begun ? input.comparison : undefined);
  if (verdict.type === "Failed" && input.rollsBack) return { ...step, failure: verdict, message: verdict.message };
  const leftMs = parseDuration(analysis.bake, "spec.rolloutStrategy.canary.analysis.bake") - ageMs;
  if (leftMs <= 0 && verdict.type === "Passed") {
    // The status says Baked first, so that another leader does not bake anew.
    const { status: baked } = statusOf(input, child, "Baked");
    return { ...step, front: "Both", status: baked, message: `green deployment ${child.name} has passed as a canary`, againInMs: 1 };
  }
  const share = `${child.sizes.gateways} of ${child.sizes.gateways + input.sizes.gateways} gateways`;
  const bakes = `green deployment ${child.name} has ${share} since ${status.since}, for ${analysis.bake}`;
  const message = [bakes, ...(verdict.message === "" ? [] : [verdict.message])].join("; ");
  return { ...step, front: "Both", message, againInMs: judgesByTime(analysis) ? leftMs : compareMs };
}

function lead(input: GreenInput, child: GreenFacts, baked: boolean): GreenStep {
  const { ranks, gateways } = input.sizes;
  const lacks = child.sizes.gateways < gateways || child.sizes.ranks < ranks;
  const { status } = statusOf(input, child, baked || lacks ? "Baked" : "Starting");
  const step = { ...idle, holds: true, status, phase: "Creating" as const };
  if (lacks) return { ...step, act: "Widen", message: `green deployment ${child.name} gets ${gateways} gateways and ${ranks} ranks` };
  return { ...step, front: "Green", message: `green deployment ${child.name} serves: the Service leads to it` };
}

/** Gateways of a canary: the fraction that canaries are of the ranks, at least one. */
export function canaryGateways({ rolloutStrategy, replicas }: MoEDeploymentSpec, gateways: number): number {
  const { canary } = rolloutStrategy;
  return canary ? Math.max(1, Math.min(gateways, Math.floor((gateways * canary.ranks) / Math.max(1, replicas)))) : gateways;
}

const capacityText = ({ name, noCapacity }: GreenFacts): string =>
  `no capacity for green deployment ${name}, so that all ranks stop before others start: ${noCapacity}`;

/** It may have requests, so that it is suspended first. */
function leave(input: GreenInput, child: GreenFacts): GreenStep {
  const { status, ageMs } = statusOf(input, child, "Leaving");
  const holds = input.wanted && input.stage === "Accepting" && input.possible !== undefined && input.own.serves;
  const step = { ...idle, holds, status, phase: "Emptying" as const };
  if (child.terminating) return { ...step, message: `green deployment ${child.name} is being removed` };
  const quietMs = child.serves ? heardOfMs - ageMs : 0;
  if (!child.suspended && quietMs > 0)
    return { ...step, message: `green deployment ${child.name} is not needed any more and stops soon`, againInMs: quietMs };
  const message = child.noCapacity === "" ? `green deployment ${child.name} ends its requests` : capacityText(child);
  if (!child.suspended) return { ...step, act: "Suspend", message };
  const leftMs = heardOfMs + input.drainMs + stopSlackMs - ageMs;
  if (child.pods === 0 || leftMs <= 0) return { ...step, act: "Delete", message: `green deployment ${child.name} is deleted` };
  return { ...step, message, againInMs: leftMs };
}

function statusOf({ last, now }: GreenInput, { name }: GreenFacts, phase: GreenStatus["phase"]) {
  const same = last?.name === name && last.phase === phase;
  // A time in the future comes from a clock that was ahead.
  const since = same && Date.parse(last.since) <= now.getTime() ? last.since : rfc3339(now);
  return { status: { name, phase, since }, ageMs: Math.max(0, now.getTime() - Date.parse(since)) };
}

export interface GreenReport {
  readonly startMs: number;
  readonly conditions: readonly Condition[];
  readonly pods: readonly PodFacts[];
}

/** Why a green deployment does not serve: a fault of its own, or no capacity. */
export function judgeGreen(
  { startMs, conditions, pods }: GreenReport,
  { progressDeadline, now }: { readonly progressDeadline: string; readonly now: Date },
): Pick<GreenFacts, "failure" | "noCapacity" | "dueInMs" | "message"> {
  const says = (type: string, status: string) => conditions.find((one) => one.type === type && one.status === status);
  const message = says("Ready", "False")?.message ?? "";
  const leftMs = startMs + parseDuration(progressDeadline, "spec.rolloutStrategy.progressDeadline") - now.getTime();
  const known = { message, dueInMs: leftMs > 0 ? leftMs : undefined };
  const refused = [says("SpecAccepted", "False"), says("Degraded", "True")].find((one) => /exceeded quota/.test(one?.message ?? ""));
  if (refused) return { ...known, failure: undefined, noCapacity: refused.message };
  const { failure } = judgePods(living(pods), { progressDeadline, now });
  const waiting = pods.find(({ problem }) => problem.startsWith("Unschedulable"));
  const late = leftMs <= 0 || failure?.reason === "ProgressDeadlineExceeded";
  if (late && waiting) return { ...known, failure: undefined, noCapacity: `pod ${waiting.name}: ${waiting.problem}` };
  if (failure || leftMs > 0) return { ...known, failure, noCapacity: "" };
  const why = `the green deployment does not serve after ${progressDeadline}${message === "" ? "" : `: ${message}`}`;
  return { ...known, failure: { reason: "ProgressDeadlineExceeded", message: why }, noCapacity: "" };
}
