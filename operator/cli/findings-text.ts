// The text of findings, worst first, and a line per deployment and job. Pure.
import { type DeploymentState, deploymentState } from "../views/deployment.ts";
import type { Finding, Observed, Unread } from "../views/findings/finding.ts";
import type { Judgement } from "../views/findings/index.ts";
import { listed, percent } from "../views/format.ts";
import { type JobState, jobState } from "../views/job.ts";
import { type Column, plainLine, tableOf, wrapped } from "./table.ts";

const names: Readonly<Record<Finding["severity"], string>> = { critical: "CRITICAL", warning: "WARNING", info: "INFO" };
const unreadMax = 8;

/** `columns`: the terminal's width, at which lines wrap. */
export function findingsText({ findings, left }: Judgement, unread: readonly Unread[], columns = Number.POSITIVE_INFINITY): string {
  const urgent = findings.filter(({ severity }) => severity !== "info").length;
  const head = urgent === 0 ? ["nothing is wrong"] : [`${urgent} ${urgent === 1 ? "thing is" : "things are"} wrong, the worst first`];
  const lines = [...head, ...findings.flatMap((finding) => ["", ...findingLines(finding, columns)])];
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
  return [
    ...(states.length === 0 ? [] : [tableOf(deploymentColumns, underTheirOwners(states))]),
    ...(jobs.length === 0 ? [] : [tableOf(jobColumns, jobs.map(jobState))]),
  ].join("\n\n");
}

/** Each green deployment after its owner. */
function underTheirOwners(states: readonly DeploymentState[]): DeploymentState[] {
  const ownerOf = (one: DeploymentState) => states.find(({ namespace, name }) => namespace === one.namespace && name === one.owner);
  const rest = states.filter((one) => ownerOf(one) === undefined);
  return rest.flatMap((one) => [one, ...states.filter((other) => ownerOf(other) === one)]);
}

const deploymentColumns: readonly Column<DeploymentState>[] = [
  ["NAMESPACE", ({ namespace }) => namespace],
  ["NAME", ({ name, owner }) => (owner === undefined ? name : `- ${name}, green deployment`)],
  ["STATUS", ({ health }) => (health.mark === "well" ? "Serving" : health.reason)],
  ["RANKS", ({ serving = 0, desired }) => `${serving}/${desired}`],
  ["GATEWAYS", ({ gateways }) => gateways],
  ["IMBALANCE", ({ placement }) => percent(placement.imbalancePercent)],
  ["BOUND", ({ placement }) => percent(placement.boundPercent)],
  ["EPOCH", ({ placement }) => String(placement.epoch ?? "-")],
  ["MODEL", ({ modelUri }) => modelUri],
];

const jobColumns: readonly Column<JobState>[] = [
  ["NAMESPACE", ({ namespace }) => namespace],
  ["TRAINING JOB", ({ name }) => name],
  ["STATUS", ({ state }) => state],
  ["STEP", ({ step = 0, steps }) => `${step}/${steps}`],
  ["PROGRESS", ({ progress = "-" }) => progress],
  ["LOSS", ({ loss = "-" }) => loss],
  ["TOKENS/S", ({ tokensPerSecond }) => String(tokensPerSecond ?? "-")],
  ["RANKS", ({ ready, desired }) => `${ready}/${desired}`],
  ["ETA", ({ eta = "-" }) => eta],
];

/** Also for a namespace with nothing in it. */
export function countText({ deployments, jobs, pods }: Pick<Observed, "deployments" | "jobs" | "pods">, where: string): string {
  const counted = [`${deployments.length} deployments`, `${jobs.length} training jobs`, `${pods.length} pods`];
  return `${listed(counted, counted.length)} in ${where}`;
}
