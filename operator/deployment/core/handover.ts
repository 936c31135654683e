// Ranks that others are to take the place of, by a changed template or because they cannot stay where they are: who they are, when each
// may be emptied, and what is said where there is no room for one more pod. Pure; pod-actions.ts acts on it. The replacement is made
// first and has to serve; nothing is remembered but the marks on pods.
import type { MoEDeploymentSpec } from "../../../crds/moe-deployment.ts";
import { formatBytes, parseDuration } from "../../../crds/quantity.ts";
import { expertBudget, fit } from "./memory-fit.ts";
import { rollRules } from "./rollout.ts";
import { isMember, type PodFacts, type Snapshot } from "./snapshot.ts";

/** Pods beside the wanted ranks, at most, that are there for ranks that cannot stay. */
const surgeMax = 4;
/** Seconds of a pod's grace period beyond elasticity.drain: requests that are left are cut and what depends on the rank ends. */
const graceSlackSeconds = 15;

/** The grace period of a worker pod: the time in which it hands requests and experts over when it is told to stop. */
export function graceSeconds({ elasticity }: Pick<MoEDeploymentSpec, "elasticity">): number {
  return Math.ceil(parseDuration(elasticity.drain, "spec.elasticity.drain") / 1000) + graceSlackSeconds;
}

export interface HandoverInput {
  readonly snapshot: Snapshot;
  /** Pods that are not terminating. */
  readonly staying: readonly PodFacts[];
  readonly ranks: number;
  /** True when the API server takes the pod that would be made. */
  readonly rolls: boolean;
  /** The reason why a pod beside the wanted ones could not be made just now; empty when none was refused. */
  readonly surgeError: string;
  readonly limitBytes: number | undefined;
}

/**
 * Ranks whose places others are to take, those marked first, then from the highest rank down: of a roll as many as its budget may have
 * on their way at a time.
 */
export function goers({ snapshot, staying, ranks, rolls }: HandoverInput): PodFacts[] {
  if (ranks === 0) return [];
  const order = (a: PodFacts, b: PodFacts) => Number(b.leaving !== undefined) - Number(a.leaving !== undefined) || b.rank - a.rank;
  const rolling = staying.filter((pod) => rolls && pod.leaving?.reason === "Roll" && !isSpared(snapshot, pod));
  const called = staying.filter((pod) => pod.mustGo !== "" && pod.leaving?.reason !== "Shrink" && !neverServed(snapshot, pod));
  if (called.length > 0) return [...new Set([...rolling, ...called.sort(order).slice(0, surgeMax)])];
  const { surge, unavailable, kept, replaces } = rollRules(snapshot, ranks);
  const old = staying.filter((pod) => rolls && replaces && isOld(snapshot, pod) && !isIdle(snapshot, pod) && pod.leaving === undefined);
  const room = Math.max(0, Math.min(surge + unavailable - rolling.length, old.length - kept));
  return [...rolling, ...old.sort(order).slice(0, room)];
}

/** Pods beside the wanted ranks that are there for these goers. */
export function besides({ snapshot, ranks }: Pick<HandoverInput, "snapshot" | "ranks">, going: readonly PodFacts[]): number {
  const called = going.filter((pod) => pod.mustGo !== "").length;
  return called + Math.min(going.length - called, rollRules(snapshot, ranks).surge);
}

/** The goers that are to be emptied from now on: as many as others serve in place of, and of a roll as many as may be missing. */
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
  // A roll is in no hurry: no more are on their way out than its budget says.
  const leaving = pods.filter((pod) => pod.leaving || pod.terminating).length;
  if (spared.length === 0 && leaving === 0 && noCapacity(input) !== "" && onlyOneShort(input, next)) return [next];
  return spared.slice(0, Math.max(0, surge + unavailable - leaving));
}

/** All ranks but this one serve, and a pod for its place waits for the room that it leaves. */
function onlyOneShort({ snapshot, staying, ranks }: HandoverInput, next: PodFacts): boolean {
  const others = staying.filter((pod) => pod !== next && !isUnscheduled(pod));
  return others.length >= ranks - 1 && others.every((pod) => serves(snapshot, pod));
}

/** The reason why there is no room for one more pod, with its name; empty when there is, as far as is known. */
function noCapacity({ staying, surgeError }: HandoverInput): string {
  const waiting = staying.find(isUnscheduled);
  return waiting ? `${waiting.name}: ${waiting.problem}` : surgeError;
}

const isUnscheduled = (pod: PodFacts): boolean => !pod.ready && pod.problem.startsWith("Unschedulable");
const serves = (snapshot: Snapshot, pod: PodFacts): boolean => pod.ready && isMember(snapshot, pod);
export const isOld = (snapshot: Snapshot, pod: PodFacts): boolean => pod.templateHash !== snapshot.templateHash;

/** It is emptied for a roll to another template, and that template is not wanted any more: the roll was taken back, or the spec was. */
export const isSpared = (snapshot: Snapshot, pod: PodFacts): boolean =>
  pod.leaving?.reason === "Roll" && !isOld(snapshot, pod) && pod.mustGo === "";

/** No process of it was ever reached. One that was may hold experts, whatever its probe says: the rebalance plane empties it. */
export function neverServed({ view, warmingUp }: Snapshot, pod: PodFacts): boolean {
  const member = view?.members.find((one) => one.podUid === pod.uid);
  return !warmingUp && !pod.ready && (member?.bootId ?? "") === "";
}

/** It does not serve, and neither its stream nor a lack of time to hear of it says that it may. */
export function isIdle({ view, warmingUp }: Snapshot, pod: PodFacts): boolean {
  const active = view?.members.some((member) => member.podUid === pod.uid && member.active) ?? false;
  return !pod.ready && !pod.leaving && !warmingUp && !active;
}

/** What a roll without room for one more pod has to say; empty where nothing rolls or there is room. */
export function rollNote(input: HandoverInput): string {
  const [next] = goers(input);
  const why = noCapacity(input);
  if (!next || why === "" || (next.mustGo !== "" && next.leaving?.reason !== "Roll")) return "";
  return `no room for one more pod (${why}): ranks are replaced one by one, ${bound(input, next)}`;
}

/** The refusal to empty a rank that cannot stay, with the bound that holds instead; undefined where there is room or nobody must go. */
export function noRoomForReplacement(input: HandoverInput, pods: readonly PodFacts[]) {
  const { snapshot, surgeError } = input;
  const stuck = goers(input).flatMap((pod) => {
    const drain = pod.leaving?.reason === "Evict" ? snapshot.view?.drains.find((one) => one.podUid === pod.uid) : undefined;
    return drain?.phase === "Blocked" ? [`rank ${pod.rank} cannot stay (${pod.mustGo}) and cannot be emptied: ${drain.message}`] : [];
  });
  if (stuck[0]) return { reason: "NoRoomForReplacement" as const, message: `${stuck[0]}; it serves until it is evicted` };
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
    reason: "NoRoomForReplacement" as const,
    message: `${state} and there is no room for ${place}; ${until}${experts(input, next)}`,
  };
}

function experts(input: HandoverInput, pod: PodFacts): string {
  const text = bound(input, pod);
  return text.startsWith("what") ? `, and ${text}` : `: ${text}`;
}

/** What becomes of the experts of a rank that goes before another is there. */
function bound({ snapshot, ranks, limitBytes }: HandoverInput, pod: PodFacts): string {
  const { model, members = [] } = snapshot.view ?? {};
  const budget = model ? expertBudget(snapshot.deployment.spec, model, limitBytes) : undefined;
  const others = `the other ${ranks - 1} ranks`;
  if (!model || budget === undefined) return `what does not fit on ${others} of its experts is loaded on demand until its successor serves`;
  const { fits, message } = fit(model, ranks - 1, budget);
  if (fits) return `${others} have room for its experts (${message})`;
  const bytes = formatBytes(members.find((one) => one.podUid === pod.uid)?.uniqueBytes ?? 0);
  return `what does not fit on ${others} (${message}) of its ${bytes} is loaded on demand until its successor serves`;
}
