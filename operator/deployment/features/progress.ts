// The current operation and the state of the roll. After the repair, whose actions name the operation. Pure.
import { annotations } from "../../../crds/common.ts";
import { rfc3339 } from "../../../crds/conditions.ts";
import { historyMax, type Operation, type PastOperation } from "../../../crds/operation.ts";
import { parseDuration } from "../../../crds/quantity.ts";
import { orphansLeft } from "../core/orphans.ts";
import { rollHold } from "../core/rollout.ts";
import { awaitsModel, living, type Snapshot, servingPods } from "../core/snapshot.ts";
import type { LeavingReason } from "../core/world.ts";
import { facts } from "./facts.ts";
import { feature } from "./feature.ts";
import type { Action, Blocked } from "./pod-actions.ts";
import { repair } from "./pod-repair.ts";
import { ranks } from "./ranks.ts";
import { rolloutView } from "./rollout-status.ts";

export const progress = feature({
  needs: { facts, ranks, repair },
  run: (_, { facts: { snapshot }, ranks: { target }, repair: { step } }) => {
    const blocked = target.blocked ?? step.blocked;
    const operation = currentOperation({ snapshot, ranks: target.ranks, actions: step.actions, blocked, note: step.note });
    return { operation, rollout: rolloutView(snapshot, target.ranks, operation?.id) };
  },
});

export interface OperationInput {
  readonly snapshot: Snapshot;
  readonly ranks: number;
  readonly actions: readonly Action[];
  readonly blocked: Blocked | undefined;
  readonly note: string;
}

const messageMax = 1024;
/** Beside a green deployment two worlds start, one after the other. */
const worldsOfGreen = 2;
/** These operations end when nothing leaves any more: what is missing then has another cause. */
const passing: readonly Operation["type"][] = ["Stop", "Shrink", "Handover", "Rebalance"];

export function currentOperation(input: OperationInput): Operation | undefined {
  const { snapshot } = input;
  const { now, deployment, green } = snapshot;
  const { spec, status } = deployment;
  const ranks = green ? spec.replicas : input.ranks;
  const type = operationType(input);
  if (!type) return undefined;
  const before = status.operation;
  const to = type === "Roll" ? { ranks, ...numbered(revisionOf(snapshot, wantedHash(snapshot))) } : { ranks };
  const said = { phase: phaseOf(type, input), message: describe(input) };
  // A spec that a green deployment tries gets its revision once it takes effect.
  const numberedNow = snapshot.green !== undefined && before?.to.revision === undefined;
  // Another failure of a retried rollback is another operation.
  const again = before !== undefined && deployment.metadata.annotations?.[annotations.retryRollout] === before.id;
  const same = before?.type === type && !again && before.to.ranks === ranks && (before.to.revision === to.revision || numberedNow);
  if (same) return { ...before, ...said, to, deadline: deadlineOf(input, before.deadline) };
  const timeoutMs = parseDuration(spec.elasticity.operationTimeout, "spec.elasticity.operationTimeout");
  return {
    id: `${type.toLowerCase()}-${now.getTime()}`,
    type,
    from: fromOf(type, snapshot),
    to,
    startTime: rfc3339(now),
    ...said,
    deadline: deadlineOf(input, rfc3339(new Date(now.getTime() + timeoutMs * (green ? worldsOfGreen : 1)))),
  };
}

const wantedHash = ({ green, templateHash }: Snapshot): string => green?.templateHash ?? templateHash;

const numbered = (revision: number | undefined): { readonly revision?: number } => (revision === undefined ? {} : { revision });

function revisionOf({ rollout }: Snapshot, hash: string | undefined): number | undefined {
  return rollout?.revisions.find((one) => one.templateHash === hash)?.number;
}

function fromOf(type: Operation["type"], snapshot: Snapshot): Operation["from"] {
  const { status } = snapshot.deployment;
  const ranks = status.expertParallel?.activeRanks ?? 0;
  if (type === "Rebalance") return { ranks, ...(status.placement?.epoch === undefined ? {} : { epoch: status.placement.epoch }) };
  if (type !== "Roll") return { ranks };
  const { rolledBack } = snapshot.rollout ?? {};
  return { ranks, ...numbered(rolledBack?.fromRevision ?? revisionOf(snapshot, status.rollout?.stableTemplateHash)) };
}

/** The time runs from when the canaries have passed. */
function deadlineOf({ snapshot, ranks }: OperationInput, deadline: string): string {
  const { spec, status } = snapshot.deployment;
  const { canary } = spec.rolloutStrategy;
  const { green } = snapshot;
  const tried = green?.phase === "Baking" ? green.status?.since : undefined;
  const since = green ? tried : status.rollout?.bakeStart;
  if (!canary || since === undefined || (!green && rollHold(snapshot, ranks)?.phase !== "Baking")) return deadline;
  const bakeMs = parseDuration(canary.analysis.bake, "spec.rolloutStrategy.canary.analysis.bake");
  const timeoutMs = parseDuration(spec.elasticity.operationTimeout, "spec.elasticity.operationTimeout");
  return rfc3339(new Date(Math.max(Date.parse(deadline), Date.parse(since) + bakeMs + timeoutMs * (green ? worldsOfGreen : 1))));
}

function operationType(input: OperationInput): Operation["type"] | undefined {
  return podOperation(input) ?? (isMoving(input.snapshot) ? "Rebalance" : undefined);
}

function isMoving({ view }: Snapshot): boolean {
  const phase = view?.placement?.phase;
  return phase !== undefined && phase !== "Committed";
}

function podOperation(input: OperationInput): Operation["type"] | undefined {
  const { snapshot, ranks, blocked } = input;
  const pods = living(snapshot.pods);
  if (snapshot.green) return "Roll";
  if (awaitsModel(snapshot)) return undefined; // the length of a download says nothing about the ranks
  if (ranks === 0) return pods.length > 0 ? "Stop" : undefined;
  const isOther = pods.some((pod) => pod.templateHash !== snapshot.templateHash);
  if (snapshot.rollout?.rolledBack && isOther) return "Roll";
  const leaving = leavingOperation(input);
  if (leaving) return leaving;
  const hold = rollHold(snapshot, ranks);
  const rolling = isOther && (hold === undefined || hold.phase === "Baking");
  if (!blocked && !rolling && pods.length > ranks) return "Shrink";
  if (servingPods(snapshot).length >= ranks) return rolling ? "Roll" : undefined;
  return shortOperation(snapshot, ranks);
}

/** What leaves names the operation, the strongest reason first. */
function leavingOperation({ snapshot, actions, blocked }: OperationInput): Operation["type"] | undefined {
  const pods = living(snapshot.pods);
  const marks = actions.filter((action) => action.type === "mark");
  const leaves = (reason: LeavingReason) =>
    pods.some((pod) => pod.leaving?.reason === reason) || marks.some((mark) => mark.reason === reason);
  if (!blocked && leaves("Shrink")) return "Shrink";
  if (pods.some((pod) => pod.mustGo !== "" || (pod.terminating && !pod.leaving)) || leaves("Evict")) return "Handover";
  return leaves("Roll") ? "Roll" : undefined;
}

/** The operation that led to a shortage keeps its name, so that a slow start does not become a repair. */
function shortOperation({ deployment: { status } }: Snapshot, ranks: number): Operation["type"] {
  const last = status.operation;
  if (last && last.to.ranks === ranks && !passing.includes(last.type)) return last.type;
  const had = status.expertParallel?.desiredRanks ?? 0;
  if (had === 0) return "Start";
  return ranks > had ? "Grow" : "Repair";
}

function phaseOf(type: Operation["type"], { snapshot, ranks }: OperationInput): Operation["phase"] {
  if (type === "Rebalance") return "Moving";
  if (snapshot.green) return snapshot.green.phase;
  if (type === "Roll" && snapshot.rollout?.rolledBack) return "RollingBack";
  const pods = living(snapshot.pods);
  if (pods.some((pod) => pod.leaving || pod.terminating)) return "Emptying";
  if (type === "Roll" && rollHold(snapshot, ranks)?.phase === "Baking") return "Baking";
  return pods.length < ranks || pods.some((pod) => !pod.ready) ? "Creating" : "Waiting";
}

function describe({ snapshot, ranks, note }: OperationInput): string {
  const pods = living(snapshot.pods);
  const waits = pods
    .filter((pod) => pod.leaving || pod.terminating)
    .map((pod) => `rank ${pod.rank} leaves: ${snapshot.view?.drains.find((drain) => drain.podUid === pod.uid)?.phase ?? "marked"}`);
  const stays = pods
    .filter((pod) => pod.mustGo !== "" && !pod.leaving && !pod.terminating)
    .map((pod) => `rank ${pod.rank} leaves when another serves: ${pod.mustGo}`);
  const serve = `${servingPods(snapshot).length} of ${ranks} ranks serve`;
  const notes = [note, rollHold(snapshot, ranks)?.message ?? "", snapshot.green?.message ?? "", orphansLeft(snapshot)].filter(
    (text) => text !== "",
  );
  return [serve, ...waits.slice(0, 8), ...stays.slice(0, 4), ...notes].join("; ").slice(0, messageMax);
}

/** Past operations, newest first. status.placement.lastRebalance has rebalances instead. */
export function pastOperations(snapshot: Snapshot, ranks: number, current: Operation | undefined): readonly PastOperation[] {
  const { status } = snapshot.deployment;
  const past = status.history ?? [];
  const ended = status.operation;
  if (!ended || ended.type === "Rebalance" || ended.id === current?.id || past.some(({ id }) => id === ended.id)) return past;
  const { id, type, from, to, startTime } = ended;
  const rolledBack = status.rollout?.rolledBack;
  const reached = servingPods(snapshot).length >= ranks && to.ranks === ranks;
  const whole = reached && (type !== "Roll" || to.revision === revisionOf(snapshot, snapshot.templateHash));
  const last = { id, type, from, to, startTime, endTime: rfc3339(snapshot.now) };
  const entry: PastOperation =
    rolledBack?.id === id
      ? { ...last, result: "RolledBack", message: rolledBack.message }
      : { ...last, result: whole ? "Done" : "Superseded" };
  return [entry, ...past].slice(0, historyMax);
}
