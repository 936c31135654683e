// The first page: all deployments and jobs, urgent ones first, cut to a number of rows. Pure.
import type { MoEDeployment } from "../../crds/moe-deployment.ts";
import type { MoETrainingJob } from "../../crds/moe-training-job.ts";
import { type DeploymentRow, deploymentList, deploymentState } from "../views/deployment.ts";
import { figure, percent, sumOf } from "../views/format.ts";
import { marks, unreadable } from "../views/health.ts";
import { type JobRow, jobList, jobState } from "../views/job.ts";
import { type Column, facts, table } from "../views/section.ts";
import type { Html } from "./html.ts";
import type { Sample } from "./memory.ts";
import { type Sections, sectionHtml } from "./sections.ts";
import type { Read, Source } from "./state.ts";

export const rowsMax = 200;

interface ServedRow extends DeploymentRow {
  readonly requests: number | undefined;
  readonly latest: Sample | undefined;
}

export function fleetSections(source: Source, search: string): Sections {
  const deployments = source.deployments().map((read) => servedRow(read, source));
  const missing = deployments.map(({ desired = 0, serving = 0 }) => Math.max(0, desired - serving));
  return {
    // Independent of the search.
    summary: sectionHtml(
      facts(
        ["Deployments", deployments.length],
        ["In trouble", deployments.filter(({ health }) => health.mark === "wrong").length],
        ["Ranks missing", missing.reduce((a, b) => a + b, 0)],
      ),
    ),
    deployments: found("deployment", deploymentColumns, { rows: deployments, search }),
    jobs: found("training job", jobColumns, { rows: source.jobs().map(jobRow), search }),
  };
}

const unreadRow = ({ namespace, name, problem }: Read<unknown>) => ({ namespace, name, health: unreadable("Unreadable", problem) });

function servedRow(read: Read<MoEDeployment>, source: Source): ServedRow {
  const row = read.parsed ? deploymentState(read.parsed) : unreadRow(read);
  const requests = sumOf(source.placement(read.uid)?.ranks.map(({ activeRequests }) => activeRequests) ?? []);
  return { ...row, requests, latest: source.latest(read.uid) };
}

const jobRow = (read: Read<MoETrainingJob>): JobRow => (read.parsed ? jobState(read.parsed) : unreadRow(read));

interface Searched<R> {
  readonly rows: readonly R[];
  readonly search: string;
}

function found<R extends JobRow | DeploymentRow>(what: string, columns: readonly Column<R>[], { rows, search }: Searched<R>): Html {
  const all = rows.filter(({ namespace, name }) => `${namespace}/${name}`.includes(search));
  const order = ({ health, namespace, name }: R): string => `${marks.indexOf(health.mark)} ${namespace}/${name}`;
  const sorted = all.map((row) => ({ row, key: order(row) })).sort((a, b) => (a.key < b.key ? -1 : 1));
  const around = {
    caption: `${what === "deployment" ? "Deployments" : "Training jobs"}, what needs a person first`,
    none: search === "" ? `no ${what}` : `no ${what} with "${search}" in its name`,
    max: rowsMax,
    more: "more; search to see them",
  };
  return sectionHtml(
    table(
      columns,
      sorted.map(({ row }) => row),
      around,
    ),
  );
}

const deploymentColumns: readonly Column<ServedRow>[] = [
  ...deploymentList(["link", "status", "ranks", "imbalance", "bound"]),
  ["Requests", ({ requests }) => figure(requests)],
  ["Tokens/s", ({ latest }) => figure(latest?.tokensPerSecond)],
  ["KV", ({ latest: { kvUsePercent: used } = {} }) => percent(used === undefined ? undefined : Math.round(used))],
  ...deploymentList(["operation", "message"]),
];
const jobColumns = jobList(["link", "status", "step", "loss", "ranks", "eta", "message"]);
