// Compares canaries with the other ranks by the requests they served. Pure. Without enough requests on both sides there is no verdict, and
// the canaries bake on.
import type { RolloutAnalysis } from "../../../crds/rollout.ts";
import type { PodFacts } from "./snapshot.ts";
import type { ComparedTotals, Comparison, MemberView, ServedTotals } from "./world.ts";

export type CanaryVerdict =
  | { readonly type: "Passed" | "Unknown"; readonly message: string }
  | { readonly type: "Failed"; readonly reason: "ErrorRateExceeded" | "LatencyExceeded"; readonly message: string };

export const judgesByTime = ({ errorRatePercent, latencyPercent }: RolloutAnalysis): boolean =>
  errorRatePercent === undefined && latencyPercent === undefined;

export function judgeCanaries(analysis: RolloutAnalysis, comparison: Comparison | undefined): CanaryVerdict {
  if (judgesByTime(analysis)) return { type: "Passed", message: "" };
  const { canaries, others } = comparison ?? {};
  if (!canaries || !others) return { type: "Unknown", message: `${canaries ? "other ranks" : "canaries"} do not say yet what they served` };
  const { minRequests } = analysis;
  for (const [who, { requests }] of [["canaries", canaries] as const, ["other ranks", others] as const])
    if (requests < minRequests) return { type: "Unknown", message: `${who} have ended ${requests} of ${minRequests} requests` };
  return errorVerdict(analysis, canaries, others) ?? latencyVerdict(analysis, canaries, others) ?? compared(canaries, others);
}

const failedPercent = ({ failed, requests }: ServedTotals): number => (requests === 0 ? 0 : (failed / requests) * 100);
const gapMs = ({ gapMicros, gaps }: ServedTotals): number => gapMicros / gaps / 1000;
const shown = (value: number): string => value.toFixed(1);

function errorVerdict({ errorRatePercent }: RolloutAnalysis, canaries: ServedTotals, others: ServedTotals): CanaryVerdict | undefined {
  if (errorRatePercent === undefined) return undefined;
  // Integer arithmetic, so that exactly the allowed number passes.
  const [served, beside] = [Math.max(1, canaries.requests), Math.max(1, others.requests)];
  if ((canaries.failed * beside - others.failed * served) * 100 <= errorRatePercent * served * beside) return undefined;
  const [ours, theirs] = [failedPercent(canaries), failedPercent(others)];
  const counts = `${canaries.failed} of ${canaries.requests} requests`;
  const message = `canaries failed ${counts} (${shown(ours)}%), other ranks ${shown(theirs)}%; ${errorRatePercent} points more are allowed`;
  return { type: "Failed", reason: "ErrorRateExceeded", message };
}

function latencyVerdict({ latencyPercent, minRequests }: RolloutAnalysis, canaries: ComparedTotals, others: ComparedTotals) {
  if (latencyPercent === undefined) return undefined;
  if (canaries.isPrefill || others.isPrefill) return undefined;
  for (const [who, { gaps }] of [["canaries", canaries] as const, ["other ranks", others] as const])
    if (gaps < Math.max(1, minRequests))
      return { type: "Unknown" as const, message: `${who} have generated ${gaps} tokens after a first one` };
  const percent = (gapMs(canaries) / gapMs(others)) * 100;
  if (!(percent > latencyPercent)) return undefined;
  const times = `${shown(gapMs(canaries))} ms from token to token, other ranks ${shown(gapMs(others))} ms`;
  const message = `canaries take ${times}: ${shown(percent)}%, at most ${latencyPercent}% are allowed`;
  return { type: "Failed" as const, reason: "LatencyExceeded" as const, message };
}

function compared(canaries: ServedTotals, others: ServedTotals): CanaryVerdict {
  const times =
    canaries.gaps > 0 && others.gaps > 0 ? `, ${shown(gapMs(canaries))} ms from token to token against ${shown(gapMs(others))} ms` : "";
  const message = `canaries failed ${shown(failedPercent(canaries))}% of ${canaries.requests} requests, other ranks ${shown(failedPercent(others))}%${times}`;
  return { type: "Passed", message };
}

export interface Watched {
  readonly bake: string;
  /** Totals at the first look, by process. */
  readonly first: ReadonlyMap<string, ServedTotals>;
}

const none: ServedTotals = { requests: 0, failed: 0, gaps: 0, gapMicros: 0 };

/** Pods that are compared as one, with their ranks' reports. */
interface Side {
  readonly pods: readonly PodFacts[];
  readonly members: readonly MemberView[];
}

export interface BakeLook {
  /** Identifies the bake; another one counts anew. */
  readonly bake: string;
  readonly canaries: Side;
  readonly others: Side;
}

export function compareServed(
  before: Watched | undefined,
  { bake, canaries, others }: BakeLook,
): { readonly comparison: Comparison; readonly watched: Watched } {
  const first = new Map(before?.bake === bake ? before.first : []);
  const since = (member: MemberView | undefined): ServedTotals | undefined => {
    if (!member?.served) return undefined;
    const from = first.get(processOf(member)) ?? member.served;
    first.set(processOf(member), from);
    return plus(member.served, from, -1);
  };
  const of = ({ pods, members }: Side): ComparedTotals | undefined => {
    const serving = pods.filter((pod) => pod.ready && !pod.terminating);
    const found = serving.map((pod) => members.find((member) => member.podUid === pod.uid));
    const totals = found.map(since);
    if (totals.length === 0 || totals.includes(undefined)) return undefined;
    const isPrefill = found.every((member) => member?.role === "prefill");
    return { ...totals.reduce<ServedTotals>((sum, one) => plus(sum, one ?? none, 1), none), ...(isPrefill ? { isPrefill } : {}) };
  };
  const comparison = { canaries: of(canaries), others: of(others) };
  const here = new Set([...canaries.members, ...others.members].map(processOf));
  for (const process of first.keys()) if (!here.has(process)) first.delete(process);
  return { comparison, watched: { bake, first } };
}

const processOf = ({ podUid, bootId }: MemberView): string => `${podUid}/${bootId}`;

function plus(a: ServedTotals, b: ServedTotals, sign: 1 | -1): ServedTotals {
  return {
    requests: a.requests + sign * b.requests,
    failed: a.failed + sign * b.failed,
    gaps: a.gaps + sign * b.gaps,
    gapMicros: a.gapMicros + sign * b.gapMicros,
  };
}
