// What the last words of pods say about the spec: which of them refuse it, and which its model. Pure.
import { endsOfModel, endsOfSpec, type ProcessEnd } from "../../../crds/process-end.ts";
import type { Refusal } from "../../kube/refusal-text.ts";
import { living, type Snapshot } from "./snapshot.ts";
import type { Verdict } from "./world.ts";

const isSpecs = (end: ProcessEnd | undefined): boolean => end !== undefined && endsOfSpec.includes(end.code);

export const isOfModel = ({ code }: ProcessEnd): boolean => endsOfModel.includes(code);
/** However often it is started. */
export const isFinal = (end: ProcessEnd): boolean => isSpecs(end) || isOfModel(end);

/** Memory may be short on one node, or for a moment. */
export const isHopeless = (end: ProcessEnd | undefined): boolean => isSpecs(end) && end?.code !== "InsufficientMemory";

/** Ends of ranks made from the template in effect, those that were taken out too, and of weight servers. */
export function endsOf(snapshot: Pick<Snapshot, "pods" | "templateHash" | "weightServerEnds" | "refusedStart">) {
  const { pods, templateHash, weightServerEnds = [], refusedStart } = snapshot;
  const ranks = living(pods).filter((pod) => !pod.terminating && pod.templateHash === templateHash);
  return [...weightServerEnds, ...ranks.flatMap(({ end }) => end ?? []), ...(refusedStart?.ends ?? [])];
}

/** The first of each code, since all ranks end alike. */
export function endRefusals(ends: readonly ProcessEnd[]): Refusal[] {
  const first = [...Map.groupBy(ends.filter(isSpecs), ({ code }) => code).values()].flatMap(([end]) => end ?? []);
  return first.map(({ code: reason, message }) => ({ reason, message }));
}

export function modelVerdict(ends: readonly ProcessEnd[]): Verdict | undefined {
  const end = ends.find(isOfModel);
  return end && { status: "False", reason: end.code, message: end.message };
}
