// The text of `enodia rollout`. Pure.
import type { MoEDeployment } from "../../crds/moe-deployment.ts";
import type { Operation, PastOperation } from "../../crds/operation.ts";
import type { RolloutPhase } from "../../crds/rollout.ts";
import { rolloutText, sideText } from "../views/deployment.ts";
import { type Column, factLines, plainLine, tableOf } from "./table.ts";

export interface RevisionRow {
  readonly number: number;
  readonly generation: number;
  readonly templateHash: string;
  readonly image: string;
  /** URI and codec. */
  readonly model: string;
}

/** Exit codes of finished rolls; undefined while one goes on. */
const restsWith: Readonly<Record<RolloutPhase, number | undefined>> = {
  Complete: 0,
  Paused: 0,
  Partitioned: 0,
  OnDelete: 0,
  RolledBack: 1,
  Progressing: undefined,
  Baking: undefined,
  RollingBack: undefined,
};

export function restingStatus({ metadata, status }: MoEDeployment): number | undefined {
  const seen = (status.observedGeneration ?? 0) >= metadata.generation;
  return seen && status.rollout ? restsWith[status.rollout.phase] : undefined;
}

/** "Roll roll-1772359200000 Emptying: 3 ranks, revision 4 -> 3 ranks, revision 5 ..." */
export function operationLine({ id, type, phase, from, to, startTime, deadline, message }: Operation): string {
  const why = message ? `: ${plainLine(message)}` : "";
  return `${type} (${id}) ${phase}   ${sideText(from)} -> ${sideText(to)}   since ${startTime}, by ${deadline}${why}`;
}

export const rolloutLine = (deployment: MoEDeployment): string | undefined => {
  const text = rolloutText(deployment);
  return text === undefined ? undefined : plainLine(text);
};

export function rolloutStatusText(deployment: MoEDeployment): string {
  const { metadata, status } = deployment;
  const { green, rolledBack } = status.rollout ?? {};
  const named = `${metadata.name} -n ${metadata.namespace}`;
  return factLines([
    ["rollout", rolloutLine(deployment) ?? "no spec is in effect yet"],
    ["green", green && `${green.name} ${green.phase}   since ${green.since}`],
    ["operation", status.operation && operationLine(status.operation)],
    ["remedy", rolledBack && `correct the spec, or make it what runs: enodia rollout undo ${named}`],
    ["", rolledBack && `or try the same again: enodia rollout resume ${named}`],
  ]).join("\n");
}

export function rolloutHistoryText({ status }: MoEDeployment, revisions: readonly RevisionRow[]): string {
  const { revision, stableRevision } = status.rollout ?? {};
  const past = status.history ?? [];
  const columns: readonly Column<RevisionRow>[] = [
    ["REVISION", ({ number }) => String(number)],
    ["GENERATION", ({ generation }) => String(generation)],
    ["TEMPLATE", ({ templateHash }) => templateHash],
    ["IMAGE", ({ image }) => image],
    ["MODEL", ({ model }) => model],
    ["STATE", ({ number }) => [number === revision ? "in effect" : [], number === stableRevision ? "whole" : []].flat().join(", ")],
  ];
  return [tableOf(columns, revisions), ...(past.length === 0 ? [] : ["", tableOf(operationColumns, past)])].join("\n");
}

const operationColumns: readonly Column<PastOperation>[] = [
  ["OPERATION", ({ id }) => id],
  ["RESULT", ({ result }) => result],
  ["FROM", ({ from }) => sideText(from)],
  ["TO", ({ to }) => sideText(to)],
  ["BEGAN", ({ startTime }) => startTime],
  ["ENDED", ({ endTime }) => endTime],
  ["WHY", ({ message = "" }) => plainLine(message)],
];
