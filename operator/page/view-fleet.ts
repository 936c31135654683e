// The view of all deployments and jobs, urgent ones first, cut to a number of rows. Pure.
import type { MoEDeployment } from "../../crds/moe-deployment.ts";
import type { MoETrainingJob } from "../../crds/moe-training-job.ts";
import { deploymentState } from "../views/deployment.ts";
import { sumOf } from "../views/format.ts";
import { type Health, marks } from "../views/health.ts";
import { jobState } from "../views/job.ts";
import type { Read, Source } from "./state.ts";

export const rowsMax = 200;

interface Row {
  readonly namespace: string;
  readonly name: string;
  readonly health: Health;
}

export interface DeploymentRow extends Row {
  readonly serving: number | undefined;
  readonly desired: number | undefined;
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
  /** All matches, those not shown included. */
  readonly found: number;
  readonly all: number;
}

/** Independent of the search. */
interface Summary {
  readonly deployments: number;
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
  const missing = rows.map(({ desired, serving }) => Math.max(0, (desired ?? 0) - (serving ?? 0)));
  return {
    deployments: rows.length,
    ranksMissing: missing.reduce((a, b) => a + b, 0),
    inTrouble: rows.filter(({ health }) => health.mark === "wrong").length,
  };
}

const unread = (problem: string): Health => ({ mark: "wrong", reason: "Unreadable", message: problem });

function deploymentRow({ namespace, name, uid, parsed, problem }: Read<MoEDeployment>, source: Source): DeploymentRow {
  const state = parsed && deploymentState(parsed);
  const latest = source.latest(uid);
  const requests = source.placement(uid)?.ranks.map(({ activeRequests }) => activeRequests) ?? [];
  return {
    namespace,
    name,
    health: state?.health ?? unread(problem),
    serving: state?.serving,
    desired: state?.desired,
    imbalancePercent: state?.placement.imbalancePercent,
    boundPercent: state?.placement.boundPercent,
    requests: sumOf(requests),
    tokensPerSecond: latest?.tokensPerSecond,
    kvUsePercent: latest?.kvUsePercent,
    operation: state?.operation && `${state.operation.type} ${state.operation.phase}`,
  };
}

function jobRow({ namespace, name, parsed, problem }: Read<MoETrainingJob>): JobRow {
  const state = parsed && jobState(parsed);
  const { step, steps, loss, eta } = state ?? {};
  return { namespace, name, health: state?.health ?? unread(problem), step, steps, loss, ranks: parsed?.status.world?.ranks.length, eta };
}

function listed<R extends Row>(all: readonly R[], search: string): Listed<R> {
  const found = all.filter(({ namespace, name }) => `${namespace}/${name}`.includes(search));
  const order = ({ health, namespace, name }: R): string => `${marks.indexOf(health.mark)} ${namespace}/${name}`;
  const rows = found
    .map((row) => ({ row, key: order(row) }))
    .sort((a, b) => (a.key < b.key ? -1 : 1))
    .slice(0, rowsMax)
    .map(({ row }) => row);
  return { rows, found: found.length, all: all.length };
}
