// The next step of a change of model or codec that serves on meanwhile: a green deployment, an owned deployment of the new model, comes up beside
// the ranks, has the Service while they change, and goes when they serve again. Pure: each step follows from what is there, so that it
// may be repeated by whoever leads. ../green deployments.ts gathers and acts.

import type { GreenStatus } from "../../../crds/blue-green.ts";
import { type Condition, rfc3339 } from "../../../crds/conditions.ts";
import type { MoEDeploymentSpec } from "../../../crds/moe-deployment.ts";
import { parseDuration } from "../../../crds/quantity.ts";
import type { RolloutAnalysis } from "../../../crds/rollout.ts";
import { type Comparison, judgeCanaries, judgesByTime } from "./canary.ts";
import type { Front, GreenFacts, GreenStep, Sizes } from "./green-look.ts";
import { judgePods } from "./rollout.ts";
import { living, type PodFacts } from "./snapshot.ts";

/** Ranks or a green deployment that have lost the Service are left to those who have not heard of it for so long before they stop. */
export const heardOfMs = 10_000;
/** What a green deployment serves as a canary is looked at this often: totals that grow wake nobody. */
const compareMs = 10_000;
/** A green deployment that was told to stop is deleted after this at the latest, beside `elasticity.drain`: gateways end before ranks do. */
const stopSlackMs = 150_000;

export interface GreenInput {
  readonly now: Date;
  /** The name of a green deployment for the spec; undefined where the strategy or the object has none. */
  readonly possible: string | undefined;
  /** Of the ranks: they have the model that is to be in force, or another and the spec is not accepted, or another and they are to stop. */
  readonly stands: "Same" | "Accepting" | "Stopping";
  /** The deployment is to serve: it is not suspended or at zero. */
  readonly wanted: boolean;
  readonly own: {
    /** A rank and a gateway of the deployment itself serve. */
    readonly serves: boolean;
    /** All of them do. */
    readonly whole: boolean;
  };
  readonly child: GreenFacts | undefined;
  /** As the Service has it. */
  readonly front: Front;
  /** A failure of the green deployment takes the roll back. */
  readonly rollsBack: boolean;
  /** What it has to stand as a canary before it serves alone; undefined: nothing. */
  readonly analysis: RolloutAnalysis | undefined;
  /** What it and the ranks have served since it bakes. */
  readonly comparison: Comparison | undefined;
  /** What the deployment is to have. */
  readonly sizes: Sizes;
  /** `elasticity.drain` in ms. */
  readonly drainMs: number;
  /** What the status said before. */
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
  const called = here && input.wanted && input.stands === "Accepting" && child.name === input.possible;
  if (isNeeded(input, child, called)) return stand(input, child);
  return called ? rise(input, child) : leave(input, child);
}

/** Ranks that do not serve have nothing to lose, and change at once. */
function begin({ wanted, stands, possible, own, now }: GreenInput): GreenStep {
  if (!wanted || stands !== "Accepting" || possible === undefined || !own.serves) return idle;
  const status: GreenStatus = { name: possible, phase: "Starting", since: rfc3339(now) };
  return { ...idle, act: "Create", holds: true, status, phase: "Creating", message: `green deployment ${possible} is made` };
}

/**
 * The green deployment keeps the Service until the ranks are whole with the model that is to be in force, or it fails while some of them serve.
 * Where none of them serves it has the Service in any case.
 */
function isNeeded({ wanted, stands, own, front }: GreenInput, child: GreenFacts, called: boolean): boolean {
  if (!wanted) return false;
  // A canary has what the ranks do not serve, and is judged all the same.
  if (front === "Both" && called) return false;
  if (front !== "Green") return child.serves && !child.terminating && !own.serves;
  if (child.terminating || !child.serves) return !own.serves;
  return !(stands === "Same" && own.whole);
}

function stand(input: GreenInput, child: GreenFacts): GreenStep {
  const { stands } = input;
  const { status, ageMs } = statusOf(input, child, "Serving");
  const leftMs = Math.max(0, heardOfMs - ageMs);
  const step = { ...idle, front: "Green" as const, status, phase: "GreenServing" as const };
  const told = `green deployment ${child.name} serves in their place`;
  if (stands === "Same") return { ...step, message: `${told} until all ranks serve the new model` };
  if (leftMs === 0 || stands === "Stopping") return { ...step, message: `${told} while the ranks change their model` };
  // Clients and proxies that have not heard of the Service yet still come to the gateways of before.
  return { ...step, holds: true, message: `${told}; the ranks change their model in ${Math.ceil(leftMs / 1000)} s`, againInMs: leftMs };
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
  // It had room: what became of that is no reason to do without it.
  if (noCapacity !== "" && dueInMs === undefined && input.rollsBack)
    return { ...step, failure: { reason: "ProgressDeadlineExceeded", message: noCapacity }, message: noCapacity };
  const says = failure?.message ?? (noCapacity || message);
  return { ...step, message: `green deployment ${child.name} does not serve yet${says === "" ? "" : `: ${says}`}`, againInMs: dueInMs };
}

/** Of new connections it has the share that its gateways are of all, and nothing comes into force meanwhile. */
function bake(input: GreenInput, child: GreenFacts, analysis: RolloutAnalysis): GreenStep {
  const { status, ageMs } = statusOf(input, child, "Baking");
  const step = { ...idle, holds: true, status, phase: "Baking" as const };
  const begun = input.last?.name === child.name && input.last.phase === "Baking";
  const verdict = judgeCanaries(analysis, begun ? input.comparison : undefined);
  if (verdict.type === "Failed" && input.rollsBack) return { ...step, failure: verdict, message: verdict.message };
  const leftMs = parseDuration(analysis.bake, "spec.rolloutStrategy.canary.analysis.bake") - ageMs;
  if (leftMs <= 0 && verdict.type === "Passed") {
    // Known before anything is done about it, so that another leader does not bake it anew.
    const { status: baked } = statusOf(input, child, "Baked");
    return { ...step, front: "Both", status: baked, message: `green deployment ${child.name} has passed as a canary`, againInMs: 1 };
  }
  const share = `${child.sizes.gateways} of ${child.sizes.gateways + input.sizes.gateways} gateways`;
  const bakes = `green deployment ${child.name} has ${share} since ${status.since}, for ${analysis.bake}`;
  const message = [bakes, ...(verdict.message === "" ? [] : [verdict.message])].join("; ");
  return { ...step, front: "Both", message, againInMs: judgesByTime(analysis) ? leftMs : compareMs };
}

/** It gets all requests once it has the gateways and ranks that they need. */
function lead(input: GreenInput, child: GreenFacts, baked: boolean): GreenStep {
  const { ranks, gateways } = input.sizes;
  const lacks = child.sizes.gateways < gateways || child.sizes.ranks < ranks;
  const { status } = statusOf(input, child, baked || lacks ? "Baked" : "Starting");
  const step = { ...idle, holds: true, status, phase: "Creating" as const };
  if (lacks) return { ...step, act: "Widen", message: `green deployment ${child.name} gets ${gateways} gateways and ${ranks} ranks` };
  return { ...step, front: "Green", message: `green deployment ${child.name} serves: the Service leads to it` };
}

/** Gateways of a green deployment that is a canary: their share of all is that of canaries among ranks, but one of them at least. */
export function canaryGateways({ rolloutStrategy, replicas }: MoEDeploymentSpec, gateways: number): number {
  const { canary } = rolloutStrategy;
  return canary ? Math.max(1, Math.min(gateways, Math.floor((gateways * canary.ranks) / Math.max(1, replicas)))) : gateways;
}

const capacityText = ({ name, noCapacity }: GreenFacts): string =>
  `no room for green deployment ${name}, so that all ranks stop before others start: ${noCapacity}`;

/** It may have requests still: it stops like any deployment that is suspended, and is deleted when its last pod is gone. */
function leave(input: GreenInput, child: GreenFacts): GreenStep {
  const { status, ageMs } = statusOf(input, child, "Leaving");
  // The next one is made when it is gone.
  const holds = input.wanted && input.stands === "Accepting" && input.possible !== undefined && input.own.serves;
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

/** The status, with how long the green deployment has been in that phase. */
function statusOf({ last, now }: GreenInput, { name }: GreenFacts, phase: GreenStatus["phase"]) {
  const same = last?.name === name && last.phase === phase;
  // A time of the future was told by a clock that was ahead.
  const since = same && Date.parse(last.since) <= now.getTime() ? last.since : rfc3339(now);
  return { status: { name, phase, since }, ageMs: Math.max(0, now.getTime() - Date.parse(since)) };
}

export interface Told {
  /** When its time to come to serve began. */
  readonly startMs: number;
  readonly conditions: readonly Condition[];
  /** Its worker pods. */
  readonly pods: readonly PodFacts[];
}

/** What keeps a green deployment from serving: something of its own, or that there is no room for it. */
export function judgeGreen(
  { startMs, conditions, pods }: Told,
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
