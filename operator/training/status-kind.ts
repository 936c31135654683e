// Which changes of a training job's status are written at once; progress waits. Pure.
import { type MoETrainingJobStatus, moeTrainingJobStatusSchema } from "../../crds/moe-training-job-status.ts";
import { jobKind } from "../kube/adoption.ts";
import type { StatusEvent, StatusKind } from "../kube/status-writer.ts";

/** Interval of progress writes. */
const progressWriteMs = 5_000;

/** The bad status, if any, of each condition whose change is an event. */
const announced: Readonly<Record<string, "True" | "False" | undefined>> = {
  SpecAccepted: "False",
  Running: undefined,
  Complete: undefined,
  Failed: "True",
};

const warned: readonly string[] = ["Restarting", "RankLost", "FewerRanks"];

export const jobStatus: StatusKind<MoETrainingJobStatus> = {
  of: jobKind,
  read: (status) => moeTrainingJobStatusSchema.safeParse(status ?? {}).data,
  softMs: () => progressWriteMs,
  hard,
  events,
};

function hard(status: MoETrainingJobStatus): unknown {
  const { step: _step, progress: _progress, loss: _loss, validationLoss: _validation, curve: _curve, ...rest } = status;
  const {
    tokensPerSecond: _speed,
    eta: _eta,
    gradientNorm: _norm,
    imbalance: _imbalance,
    spread: _spread,
    copies: _copies,
    ...left
  } = rest;
  return { ...left, conditions: status.conditions?.map(({ message: _message, ...condition }) => condition) };
}

function events(before: MoETrainingJobStatus, after: MoETrainingJobStatus): StatusEvent[] {
  const { world } = after;
  const isNew = world !== undefined && world.epoch !== before.world?.epoch && world.ranks.length > 1;
  const note = isNew ? `world ${world.epoch}: ${world.ranks.length} ranks train together` : "";
  const changed = (after.conditions ?? []).flatMap(({ type, status, reason, message }): StatusEvent[] => {
    if (!(type in announced)) return [];
    const old = before.conditions?.find((one) => one.type === type);
    if (old?.status === status && old.reason === reason) return [];
    if (old === undefined && type === "SpecAccepted" && status === "True") return []; // an accepted spec is no event
    const bad = announced[type] === status || warned.includes(reason);
    return [{ type: bad ? "Warning" : "Normal", reason, note: message }];
  });
  return isNew ? [{ type: "Normal", reason: "NewWorld", note }, ...changed] : changed;
}
