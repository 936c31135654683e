// The text of `enodia rollout`. Pure.
import type { MoEDeployment } from "../../crds/moe-deployment.ts";
import type { Operation, PastOperation } from "../../crds/operation.ts";
import type { RolloutPhase } from "../../crds/rollout.ts";
import { rolloutText, sideText } from "../views/deployment.ts";
import { plainLine, table } from "./table.ts";

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
  sideText(from),
  sideText(to),
  startTime,
  endTime,
  plainLine(message),
];
