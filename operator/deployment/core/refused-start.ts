// Ranks of a start that found what no restart mends: they are taken out, and one of them looks again later (DECISIONS.md 16). Pure.
import { labels } from "../../../crds/common.ts";
import type { Refusal } from "../../kube/refusal-text.ts";
import { endRefusals, isFinal, isHopeless, isOfModel } from "./ends.ts";
import { neverServed } from "./handover.ts";
import { canRollBack } from "./rollout.ts";
import { living, type PodFacts, type RefusedStart, type Snapshot } from "./snapshot.ts";

/** The store may change, or still be written; each try doubles the pause. */
const firstMs = 20_000;
const longestMs = 300_000;
const doublingsMax = 10;
const pauseMs = (tries: number): number => Math.min(longestMs, firstMs * 2 ** Math.min(doublingsMax, tries - 1));

/** Undefined where all ranks have served by the template, or one has opened the store, or has another. Who can take a roll or a green deployment back judges its pods. */
export function judgeStart(snapshot: Snapshot, known: RefusedStart | undefined, nowMs: number): RefusedStart | undefined {
  const { templateHash, deployment } = snapshot;
  const { spec, metadata, status } = deployment;
  const there = staying(snapshot);
  const isGreen = metadata.labels?.[labels.greenOf] !== undefined;
  if (spec.suspend || isGreen || status.rollout?.stableTemplateHash === templateHash) return undefined;
  if (canRollBack(snapshot) || there.some((pod) => pod.templateHash !== templateHash || !neverServed(snapshot, pod))) return undefined;
  const before = known?.templateHash === templateHash ? known : undefined;
  if (before && nowMs < before.untilMs) return before;
  const ends = there.flatMap((pod) => (pod.end && isFinal(pod.end) ? pod.end : []));
  // One node may be short of memory where others are not.
  const mends = ends.length < there.length && !ends.some((end) => isHopeless(end) || isOfModel(end));
  if (ends.length === 0 || mends) return before;
  const tries = (before?.tries ?? 0) + 1;
  const first = [...new Map(ends.toReversed().map((end) => [end.code, end])).values()].toReversed();
  return { templateHash, ends: first, tries, untilMs: nowMs + pauseMs(tries) };
}

const staying = ({ pods }: Snapshot): PodFacts[] => living(pods).filter(({ terminating }) => !terminating);

/** A template that served keeps its own. */
export const refusedPods = (snapshot: Snapshot): PodFacts[] =>
  staying(snapshot).filter(({ templateHash }) => templateHash === snapshot.refusedStart?.templateHash);

/** The last sentence of a refusal by a rank. */
export function retryNote({ refusedStart }: Snapshot): Refusal[] {
  const [refusal] = endRefusals(refusedStart?.ends ?? []);
  if (!refusal || !refusedStart) return [];
  const seconds = pauseMs(refusedStart.tries) / 1000;
  const message = `no rank is kept meanwhile: one looks again after ${seconds} s, and all do once the spec has changed`;
  return [{ reason: refusal.reason, message }];
}
