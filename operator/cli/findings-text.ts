// The text of findings, worst first, and a line per deployment and job. Pure.
import { type DeploymentState, deploymentList, deploymentState } from "../views/deployment.ts";
import type { Finding, Observed, Unread } from "../views/findings/finding.ts";
import { type Judgement, summaryOf } from "../views/findings/index.ts";
import { listed } from "../views/format.ts";
import { jobState, jobTable } from "../views/job.ts";
import { table } from "../views/section.ts";
import { plainLine, sectionsText, wrapped } from "./table.ts";

const names: Readonly<Record<Finding["severity"], string>> = { critical: "CRITICAL", warning: "WARNING", info: "INFO" };
const unreadMax = 8;

/** `columns`: the terminal's width, at which lines wrap. */
export function findingsText({ findings, left }: Judgement, unread: readonly Unread[], columns = Number.POSITIVE_INFINITY): string {
  const lines = [summaryOf(findings), ...findings.flatMap((finding) => ["", ...findingLines(finding, columns)])];
  if (left > 0) lines.push("", `${left} more are not shown; one deployment at a time: enodia status NAME -n NAMESPACE`);
  if (unread.length > 0) lines.push("", "not looked at, so nothing is said of it:", ...unreadLines(unread));
  return lines.join("\n");
}

const indent = { first: 10, others: 7 } as const;

function findingLines({ severity, kind, namespace, name, what, why, effect, remedy }: Finding, columns: number): string[] {
  const lines = [`${names[severity].padEnd(8)}  ${kind} ${namespace}/${name}: ${what}`, `  why  ${why}`];
  if (effect !== undefined) lines.push(`  so   ${effect}`);
  return [...lines, `  do   ${remedy}`].flatMap((line, i) => wrapped(plainLine(line), columns, i === 0 ? indent.first : indent.others));
}

function unreadLines(unread: readonly Unread[]): string[] {
  const shown = unread.slice(0, unreadMax).map(({ what, why }) => plainLine(`  ${what}: ${why}`));
  return unread.length > unreadMax ? [...shown, `  and ${unread.length - unreadMax} more`] : shown;
}

export function overviewText({ deployments, jobs }: Pick<Observed, "deployments" | "jobs">): string {
  const states = deployments.map(({ deployment }) => deploymentState(deployment));
  return sectionsText([
    ...(states.length === 0 ? [] : [table(deploymentColumns, underTheirOwners(states), { caption: "Deployments" })]),
    ...(jobs.length === 0 ? [] : [jobTable(jobs.map(jobState))]),
  ]);
}

const deploymentColumns = deploymentList(["namespace", "name", "status", "ranks", "gateways", "imbalance", "bound", "epoch", "model"]);

/** Each green deployment after its owner. */
function underTheirOwners(states: readonly DeploymentState[]): DeploymentState[] {
  const ownerOf = (one: DeploymentState) => states.find(({ namespace, name }) => namespace === one.namespace && name === one.owner);
  const rest = states.filter((one) => ownerOf(one) === undefined);
  return rest.flatMap((one) => [one, ...states.filter((other) => ownerOf(other) === one)]);
}

/** Also for a namespace with nothing in it. */
export function countText({ deployments, jobs, pods }: Pick<Observed, "deployments" | "jobs" | "pods">, where: string): string {
  const counted = [`${deployments.length} deployments`, `${jobs.length} training jobs`, `${pods.length} pods`];
  return `${listed(counted, counted.length)} in ${where}`;
}
