// The text of `enodia rollout`: how far a roll is, what was rolled back and how to go on, and the history. Pure; commands/rollout.ts
// gathers. status-text.ts shows the same line in `enodia status`.
import type { MoEDeployment } from "../../crds/moe-deployment.ts";
import type { Operation, PastOperation } from "../../crds/operation.ts";
import type { RolloutPhase } from "../../crds/rollout.ts";
import { plainLine, table } from "./table.ts";

/** A revision as it is listed. */
export interface RevisionRow {
  readonly number: number;
  readonly generation: number;
  readonly templateHash: string;
  readonly image: string;
  /** With its codec. */
  readonly model: string;
}

/** The exit status once a roll has come to rest; undefined while it goes on. */
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

/** The exit status of `rollout status`; undefined while the operator has yet to look, or the roll goes on. */
export function restingStatus({ metadata, status }: MoEDeployment): number | undefined {
  const seen = (status.observedGeneration ?? 0) >= metadata.generation;
  return seen && status.rollout ? restsWith[status.rollout.phase] : undefined;
}

const side = ({ ranks, revision, epoch }: Operation["from"]): string =>
  [`${ranks} ranks`, revision === undefined ? [] : `revision ${revision}`, epoch === undefined ? [] : `epoch ${epoch}`].flat().join(", ");

/** "Roll roll-1772359200000 Emptying: 3 ranks, revision 4 -> 3 ranks, revision 5 ..." */
export function operationLine({ id, type, phase, from, to, startTime, deadline, message }: Operation): string {
  const said = message ? `: ${plainLine(message)}` : "";
  return `${type} (${id}) ${phase}   ${side(from)} -> ${side(to)}   since ${startTime}, by ${deadline}${said}`;
}

export function rolloutLine({ spec, status }: MoEDeployment): string | undefined {
  const { rollout } = status;
  if (!rollout) return undefined;
  const { phase, revision, stableRevision, updatedRanks = 0, message } = rollout;
  const last = stableRevision === undefined ? "no revision was whole yet" : `last whole revision ${stableRevision}`;
  return `${phase}   ${updatedRanks} of ${spec.replicas} ranks serve with revision ${revision ?? "-"}, ${last}${message ? `: ${plainLine(message)}` : ""}`;
}

export function rolloutStatusText(deployment: MoEDeployment): string {
  const { metadata, status } = deployment;
  const { name, namespace } = metadata;
  const lines = [`rollout    ${rolloutLine(deployment) ?? "no spec is in force yet"}`];
  const { green } = status.rollout ?? {};
  if (green) lines.push(`green      ${green.name} ${green.phase}   since ${green.since}`);
  if (status.operation) lines.push(`operation  ${operationLine(status.operation)}`);
  if (status.rollout?.rolledBack) {
    lines.push(
      `remedy     correct the spec, or make it what runs: enodia rollout undo ${name} -n ${namespace}`,
      `           or try the same again: enodia rollout resume ${name} -n ${namespace}`,
    );
  }
  return lines.join("\n");
}

/** Revisions, newest first, and what the operator did last. */
export function rolloutHistoryText({ status }: MoEDeployment, revisions: readonly RevisionRow[]): string {
  const { revision, stableRevision } = status.rollout ?? {};
  const rows = revisions.map((row) => [
    String(row.number),
    String(row.generation),
    row.templateHash,
    row.image,
    row.model,
    [row.number === revision ? "in force" : [], row.number === stableRevision ? "whole" : []].flat().join(", "),
  ]);
  const past = (status.history ?? []).map(pastRow);
  const operations = past.length === 0 ? [] : ["", table(["OPERATION", "RESULT", "FROM", "TO", "BEGAN", "ENDED", "WHY"], past)];
  return [table(["REVISION", "GENERATION", "TEMPLATE", "IMAGE", "MODEL", "STATE"], rows), ...operations].join("\n");
}

const pastRow = ({ id, result, from, to, startTime, endTime, message = "" }: PastOperation): string[] => [
  id,
  result,
  side(from),
  side(to),
  startTime,
  endTime,
  plainLine(message),
];
