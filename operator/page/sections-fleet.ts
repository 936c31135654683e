// The sections of the first page. Pure.

import { figure, percent } from "../views/format.ts";
import { bar } from "./chart.ts";
import { type Html, html } from "./html.ts";
import { facts, markOf, nothing, type Sections, table } from "./sections.ts";
import { linkTo } from "./units.ts";
import type { DeploymentRow, FleetView, JobRow, Listed } from "./view-fleet.ts";

export function fleetSections({ summary, deployments, jobs, search }: FleetView): Sections {
  return {
    summary: facts([
      ["Deployments", summary.deployments],
      ["In trouble", summary.inTrouble],
      ["Ranks missing", summary.ranksMissing],
    ]),
    deployments: html`${deploymentsTable(deployments, search)}${moreOf(deployments)}`,
    jobs: html`${jobsTable(jobs, search)}${moreOf(jobs)}`,
  };
}

const moreOf = <R>({ rows, found }: Listed<R>): Html | undefined =>
  rows.length === found ? undefined : html`<p class="none">${found - rows.length} more; search to see them</p>`;

const empty = (what: string, search: string): Html => nothing(search === "" ? `no ${what}` : `no ${what} with "${search}" in its name`);

function deploymentsTable({ rows }: Listed<DeploymentRow>, search: string): Html {
  if (rows.length === 0) return empty("deployment", search);
  const cells = rows.map(({ namespace, name, health, serving, desired, imbalancePercent, boundPercent, requests, operation, ...more }) => [
    html`<a id="d-${namespace}-${name}" href="${linkTo("deployment", { namespace, name })}">${namespace}/${name}</a>`,
    markOf(health),
    `${figure(serving)}/${figure(desired)}`,
    html`${percent(imbalancePercent)} <small>bound ${percent(boundPercent)}</small>`,
    figure(requests),
    figure(more.tokensPerSecond),
    percent(more.kvUsePercent === undefined ? undefined : Math.round(more.kvUsePercent)),
    operation ?? "-",
    html`<span class="cut">${health.message}</span>`,
  ]);
  const columns = [
    { head: "Deployment" },
    { head: "State" },
    { head: "Ranks", numeric: true },
    { head: "Imbalance", numeric: true },
    { head: "Requests", numeric: true },
    { head: "Tokens/s", numeric: true },
    { head: "KV", numeric: true },
    { head: "Operation" },
    { head: "Message" },
  ];
  return table("Deployments, what needs a person first", columns, cells);
}

function jobsTable({ rows }: Listed<JobRow>, search: string): Html {
  if (rows.length === 0) return empty("training job", search);
  const cells = rows.map(({ namespace, name, health, step, steps, loss, ranks, eta }) => [
    html`<a id="j-${namespace}-${name}" href="${linkTo("job", { namespace, name })}">${namespace}/${name}</a>`,
    markOf(health),
    html`${bar(step, steps ?? 1, undefined)} ${figure(step)}/${figure(steps)}`,
    loss ?? "-",
    figure(ranks),
    eta ?? "-",
    html`<span class="cut">${health.message}</span>`,
  ]);
  const columns = [
    { head: "Training job" },
    { head: "State" },
    { head: "Step" },
    { head: "Loss", numeric: true },
    { head: "Ranks", numeric: true },
    { head: "Time left", numeric: true },
    { head: "Message" },
  ];
  return table("Training jobs, what needs a person first", columns, cells);
}
