// status.rollout, by which a new leader neither forgets a failed template nor bakes a canary anew. Where it is lost, serving pods show
// which template was good. Pure.
import { rfc3339 } from "../../../crds/conditions.ts";
import { parseDuration } from "../../../crds/quantity.ts";
import type { RolledBack, RolloutPhase, RolloutStatus } from "../../../crds/rollout.ts";
import { judgeCanaries, judgesByTime } from "../core/canary.ts";
import type { RollFailure } from "../core/green-look.ts";
import { canaryRanks, judgeRoll, rollHold } from "../core/rollout.ts";
import { living, type RolloutFacts, type Snapshot, servingPods } from "../core/snapshot.ts";

const messageMax = 1024;
/** Interval of passes while canaries bake, since growing totals wake nobody. */
const compareMs = 10_000;

export interface RolloutView {
  readonly status: RolloutStatus | undefined;
  readonly againInMs: number | undefined;
}

/** `operation`: id of the current one, by which a rollback names what failed. */
export function rolloutView(snapshot: Snapshot, ranks: number, operation: string | undefined): RolloutView {
  const { rollout: facts, templateHash, deployment } = snapshot;
  const before = deployment.status.rollout;
  const current = facts?.revisions.find((one) => one.templateHash === templateHash);
  if (!facts || !current) return { status: before, againInMs: undefined };
  const stable = stableRevision(snapshot, facts, ranks);
  const { failure, dueInMs } = judgeRoll(snapshot);
  const rolledBack =
    tried(snapshot, current.number, operation) ??
    (failure && stable ? takeBack(snapshot, failure, { from: current.number, to: stable.number, operation }) : undefined);
  const serving = servingPods(snapshot).filter((pod) => pod.templateHash === templateHash).length;
  const baking = bake(snapshot, ranks, serving);
  const said = phaseOf(snapshot, ranks, rolledBack ?? facts.rolledBack);
  const status: RolloutStatus = {
    phase: said.phase,
    ...(said.message === "" ? {} : { message: said.message.slice(0, messageMax) }),
    revision: current.number,
    templateHash,
    ...(stable ? { stableRevision: stable.number, stableTemplateHash: stable.templateHash } : {}),
    updatedRanks: serving,
    ...(baking.bakeStart ? { bakeStart: baking.bakeStart } : {}),
    ...(baking.bakedTemplateHash ? { bakedTemplateHash: baking.bakedTemplateHash } : {}),
    ...(snapshot.green?.status ? { green: snapshot.green.status } : {}),
    ...((rolledBack ?? facts.rolledBack) ? { rolledBack: rolledBack ?? facts.rolledBack } : {}),
  };
  // Our own status write wakes nobody, so that the next pass is requested here.
  const changed = rolledBack !== undefined || (baking.bakedTemplateHash ?? "") !== (before?.bakedTemplateHash ?? "");
  const waits = [changed ? 1 : undefined, dueInMs, baking.leftMs].filter((ms) => ms !== undefined);
  return { status, againInMs: waits.length === 0 ? undefined : Math.min(...waits) };
}

function stableRevision(snapshot: Snapshot, { revisions }: RolloutFacts, ranks: number): RolloutFacts["revisions"][number] | undefined {
  const { templateHash, deployment } = snapshot;
  const of = (hash: string | undefined) => revisions.find((one) => one.templateHash === hash);
  const serving = servingPods(snapshot);
  const complete = ranks > 0 && serving.length >= ranks && living(snapshot.pods).every((pod) => pod.templateHash === templateHash);
  if (complete) return of(templateHash);
  const known = of(deployment.status.rollout?.stableTemplateHash);
  return (
    known ?? revisions.find((one) => one.templateHash !== templateHash && serving.some((pod) => pod.templateHash === one.templateHash))
  );
}

interface Way {
  readonly from: number;
  readonly to: number;
  readonly operation: string | undefined;
}

/** What a green deployment failed to serve never took effect, and the current revision stays. */
function tried({ green, rollout, now }: Snapshot, to: number, operation: string | undefined): RolledBack | undefined {
  if (!green?.failure || rollout?.rolledBack) return undefined;
  return takeBack({ templateHash: green.templateHash, now }, green.failure, { from: 0, to, operation });
}

function takeBack(
  { templateHash, now }: Pick<Snapshot, "templateHash" | "now">,
  { reason, message }: RollFailure,
  { from, to, operation }: Way,
): RolledBack {
  const id = operation ?? `roll-${from}-${now.getTime()}`;
  return { id, templateHash, fromRevision: from, toRevision: to, reason, message: message.slice(0, messageMax), time: rfc3339(now) };
}

interface Bake {
  readonly bakeStart: string | undefined;
  readonly bakedTemplateHash: string | undefined;
  readonly leftMs: number | undefined;
}

/** The bake counts while all canaries serve, and starts anew when one does not. They pass after its time with a good comparison. */
function bake(snapshot: Snapshot, ranks: number, serving: number): Bake {
  const { deployment, templateHash, now, rollout } = snapshot;
  const { spec, status } = deployment;
  const { canary } = spec.rolloutStrategy;
  const before = status.rollout;
  const done = before?.bakedTemplateHash === templateHash ? templateHash : undefined;
  const none = { bakeStart: undefined, bakedTemplateHash: done, leftMs: undefined };
  const needed = canaryRanks(spec, ranks);
  if (!canary || done || templateHash === before?.stableTemplateHash || needed === 0 || serving < needed) return none;
  const { analysis } = canary;
  const begun = before?.templateHash === templateHash ? before.bakeStart : undefined;
  // A time in the future comes from a clock that was ahead.
  const bakeStart = begun !== undefined && Date.parse(begun) <= now.getTime() ? begun : rfc3339(now);
  const left = Date.parse(bakeStart) + parseDuration(analysis.bake, "spec.rolloutStrategy.canary.analysis.bake") - now.getTime();
  if (left <= 0 && judgeCanaries(analysis, rollout?.comparison).type === "Passed")
    return { bakeStart, bakedTemplateHash: templateHash, leftMs: undefined };
  return { bakeStart, bakedTemplateHash: done, leftMs: judgesByTime(analysis) ? left : compareMs };
}

function phaseOf(snapshot: Snapshot, ranks: number, rolledBack: RolledBack | undefined): { phase: RolloutPhase; message: string } {
  const old = living(snapshot.pods).filter((pod) => pod.templateHash !== snapshot.templateHash).length;
  if (rolledBack) {
    const over = old === 0 && rolledBack.templateHash !== snapshot.templateHash;
    const { fromRevision, toRevision, message } = rolledBack;
    const way = fromRevision === 0 ? `before it took effect, to revision ${toRevision}` : `from revision ${fromRevision} to ${toRevision}`;
    return { phase: over ? "RolledBack" : "RollingBack", message: `${way}: ${message}` };
  }
  if (snapshot.green) return { phase: snapshot.green.phase === "Baking" ? "Baking" : "Progressing", message: snapshot.green.message };
  const hold = rollHold(snapshot, ranks);
  if (hold) return hold;
  if (old > 0) return { phase: "Progressing", message: `${old} ${old === 1 ? "pod is" : "pods are"} of another template` };
  const whole = servingPods(snapshot).length >= ranks;
  return whole ? { phase: "Complete", message: "" } : { phase: "Progressing", message: "not every rank serves yet" };
}
