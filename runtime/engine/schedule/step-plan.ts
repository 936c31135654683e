// The plan of one step: groups of rows, decoding ones first.
import type { Phase, StepKind } from "../../../crds/telemetry.ts";
import { type KvGroup, rowsOfGroup, rowsOfGroups } from "../../kernels/kv-groups.ts";
import type { SlotChange } from "./kv-ledger.ts";
import type { GenerateEvent } from "./request.ts";
import type { OpenSampling } from "./sampling/open-sampling.ts";

export interface StepGroup extends KvGroup {
  readonly phase: Phase;
  /** The order is that of slots. */
  readonly ids: readonly string[];
}

export interface Step {
  /** KV changes to make first, in order. */
  readonly changes: readonly SlotChange[];
  readonly tokens: Int32Array;
  readonly groups: readonly StepGroup[];
  /** Rows whose logits are needed, and for whom. */
  readonly wanted: readonly Wanted[];
}

interface Wanted {
  readonly row: number;
  readonly id: string;
  readonly position: number;
  readonly sampling: OpenSampling;
  /** The row itself is needed, not its logits. */
  readonly embed: boolean;
  /** Set for rows of guesses: the index after the request's first row. */
  readonly guess?: number;
}

export interface GroupPlan {
  readonly group: StepGroup;
  readonly tokens: readonly number[];
  readonly wanted: readonly Wanted[];
}

export interface StepPart {
  readonly id: string;
  readonly group: StepGroup;
  readonly past: number;
  readonly from: number;
}

export interface Notice {
  readonly id: string;
  readonly event: GenerateEvent;
}

export function stepOf(changes: readonly SlotChange[], plans: readonly GroupPlan[]): Step {
  let start = 0;
  const wanted = plans.flatMap((plan) => {
    const from = start;
    start += plan.tokens.length;
    return plan.wanted.map((one) => Object.assign({}, one, { row: from + one.row }));
  });
  return { changes, tokens: Int32Array.from(plans.flatMap(({ tokens }) => tokens)), groups: plans.map(({ group }) => group), wanted };
}

/** True where later rows assume that guesses were sampled. */
export const isGuess = ({ phase, tokens }: StepGroup): boolean => phase === "decode" && tokens > 1;

export const idsOf = ({ groups }: Pick<Step, "groups">): string[] => groups.flatMap(({ ids }) => ids);

export const copiedOf = ({ changes }: Pick<Step, "changes">): number =>
  changes.reduce((sum, { kind, length }) => sum + (kind === "trim" ? 0 : length), 0);

export const decodesOf = ({ groups }: Pick<Step, "groups">): number => rowsOfGroups(groups.filter(({ phase }) => phase === "decode"));

export function kindOf(rows: number, decodes: number): StepKind {
  if (decodes === 0) return "prefill";
  return decodes === rows ? "decode" : "mixed";
}

export function partsOf({ groups }: Pick<Step, "groups">): StepPart[] {
  let start = 0;
  return groups.flatMap((group) => {
    const first = start;
    start += rowsOfGroup(group);
    return group.ids.map((id, b) => ({ id, group, past: group.past[b] as number, from: first + b * group.tokens }));
  });
}
