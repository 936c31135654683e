// The view of all deployments and training jobs: a row for each, what needs a person first, cut to a number of rows. Pure.
import type { MoEDeployment } from "../../crds/moe-deployment.ts";
import type { MoETrainingJob } from "../../crds/moe-training-job.ts";
import { deploymentVerdict, jobVerdict, marks, type Verdict } from "../views/health.ts";
import type { Read, Source } from "./source.ts";

/** Rows of a table; a search finds the others. */
export const rowsMax = 200;

interface Row {
  readonly namespace: string;
  readonly name: string;
  readonly verdict: Verdict;
}

export interface DeploymentRow extends Row {
  readonly serving: number | undefined;
  readonly wanted: number | undefined;
  readonly imbalancePercent: number | undefined;
  readonly boundPercent: number | undefined;
  readonly requests: number | undefined;
  readonly tokensPerSecond: number | undefined;
  readonly kvUsePercent: number | undefined;
  readonly operation: string | undefined;
}

export interface JobRow extends Row {
  readonly step: number | undefined;
  readonly steps: number | undefined;
  readonly loss: string | undefined;
  readonly ranks: number | undefined;
  readonly eta: string | undefined;
}

export interface Listed<R> {
  readonly rows: readonly R[];
  /** Rows that fit the search, those that are not shown included. */
  readonly found: number;
  readonly all: number;
}

/** Of all deployments, whatever the search. */
interface Summary {
  readonly deployments: number;
  /** Ranks that are wanted and do not serve. */
  readonly ranksMissing: number;
  readonly inTrouble: number;
}

export interface FleetView {
  readonly search: string;
  readonly summary: Summary;
  readonly deployments: Listed<DeploymentRow>;
  readonly jobs: Listed<JobRow>;
}

export function fleetView(source: Source, search: string): FleetView {
  const deployments = source.deployments().map((read) => deploymentRow(read, source));
  return {
    search,
    summary: summaryOf(deployments),
    deployments: listed(deployments, search),
    jobs: listed(source.jobs().map(jobRow), search),
  };
}

function summaryOf(rows: readonly DeploymentRow[]): Summary {
  const missing = rows.map(({ wanted, serving }) => Math.max(0, (wanted ?? 0) - (serving ?? 0)));
  return {
    deployments: rows.length,
    ranksMissing: missing.reduce((a, b) => a + b, 0),
    inTrouble: rows.filter(({ verdict }) => verdict.mark === "wrong").length,
  };
}

const unread = (problem: string): Verdict => ({ mark: "wrong", reason: "Unreadable", message: problem });

function deploymentRow({ namespace, name, uid, parsed, problem }: Read<MoEDeployment>, source: Source): DeploymentRow {
  const { status } = parsed ?? {};
  const latest = source.latest(uid);
  const requests = source.picture(uid)?.ranks.flatMap(({ activeRequests }) => activeRequests ?? []) ?? [];
  return {
    namespace,
    name,
    verdict: parsed ? deploymentVerdict(status?.conditions, status?.operation?.type) : unread(problem),
    serving: status?.expertParallel?.activeRanks,
    wanted: status?.expertParallel?.desiredRanks ?? parsed?.spec.replicas,
    imbalancePercent: status?.placement?.imbalancePercent,
    boundPercent: status?.placement?.boundPercent,
    requests: requests.length === 0 ? undefined : requests.reduce((a, b) => a + b, 0),
    tokensPerSecond: latest?.tokensPerSecond,
    kvUsePercent: latest?.kvUsePercent,
    operation: status?.operation && `${status.operation.type} ${status.operation.phase}`,
  };
}

function jobRow({ namespace, name, parsed, problem }: Read<MoETrainingJob>): JobRow {
  const { status } = parsed ?? {};
  return {
    namespace,
    name,
    verdict: parsed ? jobVerdict(status?.conditions) : unread(problem),
    step: status?.step,
    steps: parsed?.spec.steps,
    loss: status?.loss,
    ranks: status?.world?.ranks.length,
    eta: status?.eta,
  };
}

function listed<R extends Row>(all: readonly R[], search: string): Listed<R> {
  const found = all.filter(({ namespace, name }) => `${namespace}/${name}`.includes(search));
  const order = ({ verdict, namespace, name }: R): string => `${marks.indexOf(verdict.mark)} ${namespace}/${name}`;
  const rows = found
    .map((row) => ({ row, key: order(row) }))
    .sort((a, b) => (a.key < b.key ? -1 : 1))
    .slice(0, rowsMax)
    .map(({ row }) => row);
  return { rows, found: found.length, all: all.length };
}
