// The text of what `enodia status` found: what is wrong, the worst first, each with why, what comes of it and the command to begin with;
// then one line for each deployment and training job. Pure.
import { labels } from "../../crds/common.ts";
import type { MoEDeployment } from "../../crds/moe-deployment.ts";
import type { MoETrainingJob } from "../../crds/moe-training-job.ts";
import type { Finding, Observed, Unread } from "./findings/finding.ts";
import type { Judgement } from "./findings/index.ts";
import { percent, plainLine, table } from "./table.ts";
import { listed, wrapped } from "./words.ts";

const words: Readonly<Record<Finding["severity"], string>> = { critical: "CRITICAL", warning: "WARNING", info: "INFO" };
/** Unread things that are named one by one. */
const unreadMax = 8;

/** `columns`: of a terminal, for which long lines are parted between words. */
export function findingsText({ findings, left }: Judgement, unread: readonly Unread[], columns = Number.POSITIVE_INFINITY): string {
  const urgent = findings.filter(({ severity }) => severity !== "info").length;
  const head = urgent === 0 ? ["nothing is wrong"] : [`${urgent} ${urgent === 1 ? "thing is" : "things are"} wrong, the worst first`];
  const lines = [...head, ...findings.flatMap((finding) => ["", ...findingLines(finding, columns)])];
  if (left > 0) lines.push("", `${left} more are not shown; one deployment at a time: enodia status NAME -n NAMESPACE`);
  if (unread.length > 0) lines.push("", "not looked at, so nothing is said of it:", ...unreadLines(unread));
  return lines.join("\n");
}

/** Behind the words at the beginning of a line. */
const indent = { first: 10, others: 7 } as const;

function findingLines({ severity, kind, namespace, name, what, why, effect, remedy }: Finding, columns: number): string[] {
  const lines = [`${words[severity].padEnd(8)}  ${kind} ${namespace}/${name}: ${what}`, `  why  ${why}`];
  if (effect !== undefined) lines.push(`  so   ${effect}`);
  return [...lines, `  do   ${remedy}`].flatMap((line, i) => wrapped(plainLine(line), columns, i === 0 ? indent.first : indent.others));
}

function unreadLines(unread: readonly Unread[]): string[] {
  const shown = unread.slice(0, unreadMax).map(({ what, why }) => plainLine(`  ${what}: ${why}`));
  return unread.length > unreadMax ? [...shown, `  and ${unread.length - unreadMax} more`] : shown;
}

/** A line for each deployment, and for each training job where there are some. */
export function overviewText({ deployments, jobs }: Pick<Observed, "deployments" | "jobs">): string {
  const parts: string[] = [];
  if (deployments.length > 0) {
    const header = ["NAMESPACE", "NAME", "STATUS", "RANKS", "GATEWAYS", "IMBALANCE", "BOUND", "EPOCH", "MODEL"];
    parts.push(
      table(
        header,
        underTheirOwners(deployments.map(({ deployment }) => deployment)).map((deployment) => deploymentRow(deployment).map(plainLine)),
      ),
    );
  }
  if (jobs.length > 0) {
    const header = ["NAMESPACE", "TRAINING JOB", "STATUS", "STEP", "PROGRESS", "LOSS", "TOKENS/S", "RANKS", "ETA"];
    parts.push(
      table(
        header,
        jobs.map((job) => jobRow(job).map(plainLine)),
      ),
    );
  }
  return parts.join("\n\n");
}

const ownerOf = ({ metadata: { labels: marks } }: MoEDeployment): string | undefined => marks?.[labels.greenOf];

/** Each green deployment behind the deployment for which it serves, where that is shown. */
function underTheirOwners(deployments: readonly MoEDeployment[]): MoEDeployment[] {
  const place = (one: MoEDeployment) =>
    deployments.findIndex(({ metadata }) => metadata.namespace === one.metadata.namespace && metadata.name === ownerOf(one));
  const rest = deployments.filter((one) => place(one) < 0);
  return rest.flatMap((one) => [one, ...deployments.filter((other) => deployments[place(other)] === one)]);
}

function deploymentRow(deployment: MoEDeployment): string[] {
  const { metadata, spec, status } = deployment;
  const { gateway, placement } = status;
  return [
    metadata.namespace,
    ownerOf(deployment) === undefined ? metadata.name : `- ${metadata.name}, green deployment`,
    stateOf(status),
    `${status.availableReplicas ?? 0}/${spec.replicas}`,
    gateway ? `${gateway.readyReplicas ?? 0}/${gateway.replicas ?? 0}` : "-",
    percent(placement?.imbalancePercent),
    percent(placement?.boundPercent),
    String(placement?.epoch ?? "-"),
    spec.model.uri,
  ];
}

/** In one word: what is under way, else how it stands. */
function stateOf({ conditions }: MoEDeployment["status"]): string {
  const condition = (type: string) => conditions?.find((one) => one.type === type);
  const under = condition("Progressing");
  if (under?.status === "True") return under.reason;
  const ready = condition("Ready");
  if (ready === undefined) return "NotObserved";
  return ready.status === "True" ? "Serving" : ready.reason;
}

function jobRow({ metadata, spec, status }: MoETrainingJob): string[] {
  const running = status.conditions?.find(({ type }) => type === "Running");
  const over = status.conditions?.find(({ type, status: is }) => (type === "Complete" || type === "Failed") && is === "True");
  return [
    metadata.namespace,
    metadata.name,
    over?.type ?? running?.reason ?? "NotObserved",
    `${status.step ?? 0}/${spec.steps}`,
    status.progress ?? "-",
    status.loss ?? "-",
    String(status.tokensPerSecond ?? "-"),
    `${status.readyReplicas ?? 0}/${spec.replicas}`,
    status.eta ?? "-",
  ];
}

/** What there is, in words: for a namespace with nothing in it too. */
export function countText({ deployments, jobs, pods }: Pick<Observed, "deployments" | "jobs" | "pods">, where: string): string {
  const counted = [`${deployments.length} deployments`, `${jobs.length} training jobs`, `${pods.length} pods`];
  return `${listed(counted, counted.length)} in ${where}`;
}
