// The first page: all deployments and jobs, urgent ones first, cut to a number of rows. Pure.
import type { MoEDeployment } from "../../crds/moe-deployment.ts";
import type { MoETrainingJob } from "../../crds/moe-training-job.ts";
import { type DeploymentState, deploymentState } from "../views/deployment.ts";
import { figure, percent, sumOf } from "../views/format.ts";
import { type Health, marks } from "../views/health.ts";
import { type JobState, jobState } from "../views/job.ts";
import { bar } from "./chart.ts";
import { type Html, html } from "./html.ts";
import type { Sample } from "./memory.ts";
import { type Column, facts, markOf, nothing, type Sections, table } from "./sections.ts";
import type { Read, Source } from "./state.ts";
import { linkTo } from "./units.ts";

export const rowsMax = 200;

interface Row<S> {
  readonly namespace: string;
  readonly name: string;
  readonly health: Health;
  /** Undefined where the object cannot be read. */
  readonly state: S | undefined;
}

interface DeploymentRow extends Row<DeploymentState> {
  readonly requests: number | undefined;
  readonly latest: Sample | undefined;
}

interface JobRow extends Row<JobState> {
  readonly ranks: number | undefined;
}

export function fleetSections(source: Source, search: string): Sections {
  const deployments = source.deployments().map((read) => deploymentRow(read, source));
  const missing = deployments.map(({ state }) => Math.max(0, (state?.desired ?? 0) - (state?.serving ?? 0)));
  return {
    // Independent of the search.
    summary: facts([
      ["Deployments", deployments.length],
      ["In trouble", deployments.filter(({ health }) => health.mark === "wrong").length],
      ["Ranks missing", missing.reduce((a, b) => a + b, 0)],
    ]),
    deployments: found("deployment", deploymentColumns, { rows: deployments, search }),
    jobs: found("training job", jobColumns, { rows: source.jobs().map(jobRow), search }),
  };
}

const unread = (problem: string): Health => ({ mark: "wrong", reason: "Unreadable", message: problem });

function deploymentRow({ namespace, name, uid, parsed, problem }: Read<MoEDeployment>, source: Source): DeploymentRow {
  const state = parsed && deploymentState(parsed);
  const requests = sumOf(source.placement(uid)?.ranks.map(({ activeRequests }) => activeRequests) ?? []);
  return { namespace, name, health: state?.health ?? unread(problem), state, requests, latest: source.latest(uid) };
}

function jobRow({ namespace, name, parsed, problem }: Read<MoETrainingJob>): JobRow {
  const state = parsed && jobState(parsed);
  return { namespace, name, health: state?.health ?? unread(problem), state, ranks: parsed?.status.world?.ranks.length };
}

interface Searched<R> {
  readonly rows: readonly R[];
  readonly search: string;
}

function found<R extends Row<unknown>>(what: string, columns: readonly Column<R>[], { rows, search }: Searched<R>): Html {
  const all = rows.filter(({ namespace, name }) => `${namespace}/${name}`.includes(search));
  if (all.length === 0) return nothing(search === "" ? `no ${what}` : `no ${what} with "${search}" in its name`);
  const order = ({ health, namespace, name }: R): string => `${marks.indexOf(health.mark)} ${namespace}/${name}`;
  const sorted = all.map((row) => ({ row, key: order(row) })).sort((a, b) => (a.key < b.key ? -1 : 1));
  const shown = sorted.slice(0, rowsMax).map(({ row }) => row);
  const caption = `${what === "deployment" ? "Deployments" : "Training jobs"}, what needs a person first`;
  const more = all.length > shown.length ? nothing(`${all.length - shown.length} more; search to see them`) : undefined;
  return html`${table(caption, columns, shown)}${more}`;
}

const message = ({ health }: Row<unknown>): Html => html`<span class="cut">${health.message}</span>`;

const deploymentColumns: readonly Column<DeploymentRow>[] = [
  [
    "Deployment",
    ({ namespace, name }) =>
      html`<a id="d-${namespace}-${name}" href="${linkTo("deployment", { namespace, name })}">${namespace}/${name}</a>`,
  ],
  ["State", ({ health }) => markOf(health)],
  ["Ranks", ({ state }) => `${figure(state?.serving)}/${figure(state?.desired)}`, "number"],
  [
    "Imbalance",
    ({ state }) => html`${percent(state?.placement.imbalancePercent)} <small>bound ${percent(state?.placement.boundPercent)}</small>`,
    "number",
  ],
  ["Requests", ({ requests }) => figure(requests), "number"],
  ["Tokens/s", ({ latest }) => figure(latest?.tokensPerSecond), "number"],
  ["KV", ({ latest: { kvUsePercent: used } = {} }) => percent(used === undefined ? undefined : Math.round(used)), "number"],
  ["Operation", ({ state }) => (state?.operation ? `${state.operation.type} ${state.operation.phase}` : "-")],
  ["Message", message],
];

const jobColumns: readonly Column<JobRow>[] = [
  [
    "Training job",
    ({ namespace, name }) => html`<a id="j-${namespace}-${name}" href="${linkTo("job", { namespace, name })}">${namespace}/${name}</a>`,
  ],
  ["State", ({ health }) => markOf(health)],
  ["Step", ({ state: { step, steps } = {} }) => html`${bar(step, steps ?? 1, undefined)} ${figure(step)}/${figure(steps)}`],
  ["Loss", ({ state }) => state?.loss ?? "-", "number"],
  ["Ranks", ({ ranks }) => figure(ranks), "number"],
  ["Time left", ({ state }) => state?.eta ?? "-", "number"],
  ["Message", message],
];
