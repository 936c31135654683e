// The text of findings, worst first, and a line per deployment and job. Pure.
import { type DeploymentState, deploymentState } from "../views/deployment.ts";
import type { Finding, Observed, Unread } from "../views/findings/finding.ts";
import type { Judgement } from "../views/findings/index.ts";
import { listed, percent } from "../views/format.ts";
import { type JobState, jobState } from "../views/job.ts";
import { plainLine, table, wrapped } from "./table.ts";

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
  const head = ["NAMESPACE", "NAME", "STATUS", "RANKS", "GATEWAYS", "IMBALANCE", "BOUND", "EPOCH", "MODEL"];
  const jobHead = ["NAMESPACE", "TRAINING JOB", "STATUS", "STEP", "PROGRESS", "LOSS", "TOKENS/S", "RANKS", "ETA"];
  return [
    ...(states.length === 0 ? [] : [table(head, underTheirOwners(states).map(deploymentRow))]),
    ...(jobs.length === 0
      ? []
      : [
          table(
            jobHead,
            jobs.map((job) => jobRow(jobState(job))),
          ),
        ]),
  ].join("\n\n");
}

/** Each green deployment after its owner. */
function underTheirOwners(states: readonly DeploymentState[]): DeploymentState[] {
  const ownerOf = (one: DeploymentState) => states.find(({ namespace, name }) => namespace === one.namespace && name === one.owner);
  const rest = states.filter((one) => ownerOf(one) === undefined);
  return rest.flatMap((one) => [one, ...states.filter((other) => ownerOf(other) === one)]);
}

function deploymentRow({ namespace, name, owner, health, serving = 0, desired, gateways, placement, modelUri }: DeploymentState): string[] {
  const { imbalancePercent, boundPercent, epoch } = placement;
  return [
    namespace,
    owner === undefined ? name : `- ${name}, green deployment`,
    health.mark === "well" ? "Serving" : health.reason,
    `${serving}/${desired}`,
    gateways,
    percent(imbalancePercent),
    percent(boundPercent),
    String(epoch ?? "-"),
    modelUri,
  ].map(plainLine);
}

const jobRow = ({ namespace, name, state, step = 0, steps, progress = "-", loss = "-", ...job }: JobState): string[] =>
  [
    namespace,
    name,
    state,
    `${step}/${steps}`,
    progress,
    loss,
    String(job.tokensPerSecond ?? "-"),
    `${job.ready}/${job.desired}`,
    job.eta ?? "-",
  ].map(plainLine);

/** Also for a namespace with nothing in it. */
export function countText({ deployments, jobs, pods }: Pick<Observed, "deployments" | "jobs" | "pods">, where: string): string {
  const counted = [`${deployments.length} deployments`, `${jobs.length} training jobs`, `${pods.length} pods`];
  return `${listed(counted, counted.length)} in ${where}`;
}
