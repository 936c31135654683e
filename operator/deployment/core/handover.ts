// Ranks that new pods replace, because of a new template or because they must leave, and when each may be emptied. A replacement serves
// first. Pure.
import type { MoEDeploymentSpec } from "../../../crds/moe-deployment.ts";
import { formatBytes, parseDuration } from "../../../crds/quantity.ts";
import { expertBudget, fit } from "./capacity.ts";
import { rollRules } from "./rollout.ts";
import { isMember, type PodFacts, type Snapshot } from "./snapshot.ts";

const surgeMax = 4;
/** Seconds beyond elasticity.drain, to cut the remaining requests. */
const graceSlackSeconds = 15;

/** Seconds in which a worker hands over requests and experts. */
export function graceSeconds({ elasticity }: Pick<MoEDeploymentSpec, "elasticity">): number {
  return Math.ceil(parseDuration(elasticity.drain, "spec.elasticity.drain") / 1000) + graceSlackSeconds;
}

export interface HandoverInput {
  readonly snapshot: Snapshot;
  readonly staying: readonly PodFacts[];
  readonly ranks: number;
  /** The API server accepts a new pod. */
  readonly rolls: boolean;
  readonly surgeError: string;
  readonly limitBytes: number | undefined;
}

/** Marked ranks first, then from the highest down, within a roll's budget. */
export function goers({ snapshot, staying, ranks, rolls }: HandoverInput): PodFacts[] {
  if (ranks === 0) return [];
  const order = (a: PodFacts, b: PodFacts) => Number(b.leaving !== undefined) - Number(a.leaving !== undefined) || b.rank - a.rank;
  const rolling = staying.filter((pod) => rolls && pod.leaving?.reason === "Roll" && !isSpared(snapshot, pod));
  const called = staying.filter((pod) => pod.mustGo !== "" && pod.leaving?.reason !== "Shrink" && !neverServed(snapshot, pod));
  if (called.length > 0) return [...new Set([...rolling, ...called.sort(order).slice(0, surgeMax)])];
  const { surge, unavailable, kept, replaces } = rollRules(snapshot, ranks);
  const old = staying.filter((pod) => rolls && replaces && isOld(snapshot, pod) && !isIdle(snapshot, pod) && pod.leaving === undefined);
  const capacity = Math.max(0, Math.min(surge + unavailable - rolling.length, old.length - kept));
  return [...rolling, ...old.sort(order).slice(0, capacity)];
}

export function besides({ snapshot, ranks }: Pick<HandoverInput, "snapshot" | "ranks">, going: readonly PodFacts[]): number {
  const called = going.filter((pod) => pod.mustGo !== "").length;
  return called + Math.min(going.length - called, rollRules(snapshot, ranks).surge);
}

/** Ranks whose replacement serves, and for a roll as many as may be unavailable. */
export function emptied(input: HandoverInput, pods: readonly PodFacts[]): PodFacts[] {
  const { snapshot, staying, ranks } = input;
  const { surge, unavailable } = rollRules(snapshot, ranks);
  const going = goers(input);
  const open = going.filter((pod) => pod.leaving === undefined);
  const [next] = open;
  if (!next) return [];
  const least = next.mustGo === "" ? ranks - unavailable : ranks;
  const others = staying.filter((pod) => !going.includes(pod) && pod.leaving === undefined && serves(snapshot, pod));
  let serving = others.length + open.filter((pod) => serves(snapshot, pod)).length;
  const spared = open.filter((pod) => {
    const left = serving - Number(serves(snapshot, pod));
    if (left < least) return false;
    serving = left;
    return true;
  });
  if (next.mustGo !== "") return spared;
  const leaving = pods.filter((pod) => pod.leaving || pod.terminating).length;
  if (spared.length === 0 && leaving === 0 && noCapacity(input) !== "" && onlyOneShort(input, next)) return [next];
  return spared.slice(0, Math.max(0, surge + unavailable - leaving));
}

/** The replacement waits for this rank's capacity. */
function onlyOneShort({ snapshot, staying, ranks }: HandoverInput, next: PodFacts): boolean {
  const others = staying.filter((pod) => pod !== next && !isUnscheduled(pod));
  return others.length >= ranks - 1 && others.every((pod) => serves(snapshot, pod));
}

/** Why an extra pod does not fit; empty when it does as far as is known. */
function noCapacity({ staying, surgeError }: HandoverInput): string {
  const waiting = staying.find(isUnscheduled);
  return waiting ? `${waiting.name}: ${waiting.problem}` : surgeError;
}

const isUnscheduled = (pod: PodFacts): boolean => !pod.ready && pod.problem.startsWith("Unschedulable");
const serves = (snapshot: Snapshot, pod: PodFacts): boolean => pod.ready && isMember(snapshot, pod);
export const isOld = (snapshot: Snapshot, pod: PodFacts): boolean => pod.templateHash !== snapshot.templateHash;

/** Its roll was rolled back, or the spec was changed back. */
export const isSpared = (snapshot: Snapshot, pod: PodFacts): boolean =>
  pod.leaving?.reason === "Roll" && !isOld(snapshot, pod) && pod.mustGo === "";

/** A process that was reached may hold experts, whatever its probe says. */
export function neverServed({ view, warmingUp }: Snapshot, pod: PodFacts): boolean {
  const member = view?.members.find((one) => one.podUid === pod.uid);
  return !warmingUp && !pod.ready && (member?.bootId ?? "") === "";
}

/** It does not serve, and the leader has had time to hear otherwise. */
export function isIdle({ view, warmingUp }: Snapshot, pod: PodFacts): boolean {
  const active = view?.members.some((member) => member.podUid === pod.uid && member.active) ?? false;
  return !pod.ready && !pod.leaving && !warmingUp && !active;
}

export function rollNote(input: HandoverInput): string {
  const [next] = goers(input);
  const why = noCapacity(input);
  if (!next || why === "" || (next.mustGo !== "" && next.leaving?.reason !== "Roll")) return "";
  return `no capacity for one more pod (${why}): ranks are replaced one by one, ${bound(input, next)}`;
}

/** Why a rank that must leave is not emptied, and the rule that holds instead. */
export function noRoomForReplacement(input: HandoverInput, pods: readonly PodFacts[]) {
  const { snapshot, surgeError } = input;
  const stuck = goers(input).flatMap((pod) => {
    const drain = pod.leaving?.reason === "Evict" ? snapshot.view?.drains.find((one) => one.podUid === pod.uid) : undefined;
    return drain?.phase === "Blocked" ? [`rank ${pod.rank} cannot stay (${pod.mustGo}) and cannot be emptied: ${drain.message}`] : [];
  });
  if (stuck[0]) return { reason: "NoCapacityForReplacement" as const, message: `${stuck[0]}; it serves until it is evicted` };
  const why = noCapacity(input);
  const evicted = pods.find((pod) => pod.terminating && (pod.leaving?.reason ?? "Evict") === "Evict");
  const next = evicted ?? goers(input).find((pod) => pod.mustGo !== "" && pod.leaving === undefined);
  if (!next || why === "" || input.ranks === 0) return undefined;
  const place = why === surgeError ? `a pod in its place: ${why}` : `pod ${why.replace(": ", " in its place: ")}`;
  const seconds = graceSeconds(snapshot.deployment.spec);
  const state = evicted
    ? `rank ${next.rank} is going (${next.mustGo || "its pod was deleted"})`
    : `rank ${next.rank} cannot stay (${next.mustGo})`;
  const until = evicted
    ? `it hands over for ${seconds} s at most`
    : `it serves until it is evicted and then hands over for ${seconds} s at most`;
  return {
    reason: "NoCapacityForReplacement" as const,
    message: `${state} and there is no capacity for ${place}; ${until}${experts(input, next)}`,
  };
}

function experts(input: HandoverInput, pod: PodFacts): string {
  const text = bound(input, pod);
  return text.startsWith("what") ? `, and ${text}` : `: ${text}`;
}

/** What happens to the experts of a rank without a replacement. */
function bound({ snapshot, ranks, limitBytes }: HandoverInput, pod: PodFacts): string {
  const { model, members = [] } = snapshot.view ?? {};
  const budget = model ? expertBudget(snapshot.deployment.spec, model, limitBytes) : undefined;
  const others = `the other ${ranks - 1} ranks`;
  if (!model || budget === undefined) return `what does not fit on ${others} of its experts is loaded on demand until its successor serves`;
  const { fits, message } = fit(snapshot.deployment.spec, model, ranks - 1, budget);
  if (fits) return `${others} have room for its experts (${message})`;
  const bytes = formatBytes(members.find((one) => one.podUid === pod.uid)?.uniqueBytes ?? 0);
  return `what does not fit on ${others} (${message}) of its ${bytes} is loaded on demand until its successor serves`;
}
