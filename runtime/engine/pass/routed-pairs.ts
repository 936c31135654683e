// The (row, expert) pairs of a layer by the rank that computes them, and the frames of those that leave.
import type { Phase } from "../../../crds/telemetry.ts";
import { type Pairs, selectPairs } from "../../placement/frames/pairs.ts";
import type { FrameAnswer } from "../api.ts";
import { type Group, groupPairs } from "./combine.ts";
import type { StepTools } from "./step-tools.ts";

export interface ChosenPairs {
  readonly layer: number;
  readonly first: number;
  readonly decodes: number;
  readonly ids: Int32Array; // [n, topK]
  readonly topK: number;
  /** Larger ids are free experts, which the block has computed. */
  readonly experts: number;
}

export interface PhaseGroup extends Group {
  readonly phase: Phase;
}

/** The key of local pairs; ranks are >= 0, and -1 is an unknown host. */
export const localKey = -2;
/** The key of pairs that the block has computed: their rows stay 0. */
const nowhereKey = -3;

/** Groups of pairs that ascend, by rank and phase. */
export function routePairs(tools: StepTools, { layer, first, decodes, ids, topK, experts: count }: ChosenPairs): PhaseGroup[] {
  const { experts, counter } = tools;
  const { rank, table } = tools.router();
  const decoded = decodes * topK;
  return groupPairs(ids.length, (pair) => {
    const expert = ids[pair] as number;
    if (expert >= count) return nowhereKey;
    counter.routed(pair < decoded ? "decode" : "prefill", layer, expert, 1);
    tools.chose?.(first + Math.floor(pair / topK), layer, expert);
    const host = table.route(layer, expert);
    const here = (host === rank || host < 0) && experts.has(layer, expert);
    return here ? localKey : host;
  }).flatMap((group) => (group.key === nowhereKey ? [] : byPhase(group, decoded)));
}

function byPhase({ key, pairs }: Group, decoded: number): PhaseGroup[] {
  const at = pairs.findIndex((pair) => pair >= decoded);
  const [own, others] = at < 0 ? [pairs, []] : [pairs.slice(0, at), pairs.slice(at)];
  const groups: PhaseGroup[] = [
    { key, phase: "decode", pairs: own },
    { key, phase: "prefill", pairs: others },
  ];
  return groups.filter((group) => group.pairs.length > 0);
}

interface Sent extends PhaseGroup {
  readonly frame: Pairs;
  readonly answered: Promise<FrameAnswer>;
}

/** Sends the pairs of other ranks, those of decodes first. */
export function sendPairs(
  tools: StepTools,
  groups: readonly PhaseGroup[],
  { layer, gates, all }: { readonly layer: number; readonly gates: Float32Array; readonly all: Pairs },
): Sent[] {
  const { hidden } = tools.program;
  const epoch = tools.router().table.epochOf(layer);
  return groups
    .filter(({ key }) => key !== localKey)
    .toSorted((a, b) => (a.phase === b.phase ? 0 : a.phase === "decode" ? -1 : 1))
    .map((group) => {
      const frame = { layer, phase: group.phase, epoch, rank: group.key, ...selectPairs(all, hidden, group.pairs) };
      const answered = tools.dispatch(frame, () => Float32Array.from(group.pairs, (pair) => gates[pair] as number));
      return { ...group, frame, answered };
    });
}
