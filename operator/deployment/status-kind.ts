// How a MoEDeployment's status is written: which changes are worth a write at once, and which an event. Pure.
import { type MoEDeploymentStatus, moeDeploymentStatusSchema } from "../../crds/moe-deployment-status.ts";
import { deploymentKind } from "../kube/adoption.ts";
import type { StatusEvent, StatusKind } from "../kube/status-writer.ts";

/** Of something that goes on, and of nothing but the load. */
const softMs = { underWay: 10_000, idle: 60_000 };

/** Conditions whose change is worth an event, and which status is the bad one. */
const announced: Readonly<Record<string, "True" | "False">> = {
  Ready: "False",
  Available: "False",
  Degraded: "True",
  SpecAccepted: "False",
  FieldConflict: "True",
  ModelAvailable: "False",
  TelemetryFresh: "False",
};

export const deploymentStatus: StatusKind<MoEDeploymentStatus> = {
  of: deploymentKind,
  read: (status) => moeDeploymentStatusSchema.safeParse(status ?? {}).data,
  softMs: (status) => (isIdle(status) ? softMs.idle : softMs.underWay),
  hard,
  events,
};

/** True where the deployment serves and nothing is done to it. */
function isIdle({ conditions, operation, rollout, download }: MoEDeploymentStatus): boolean {
  const ready = conditions?.some(({ type, status }) => type === "Ready" && status === "True") ?? false;
  const done = (rollout?.phase ?? "Complete") === "Complete" && (download?.phase ?? "Done") === "Done";
  return ready && done && operation === undefined;
}

/** The status without what only tells time, or the balance of the last window. */
function hard(status: MoEDeploymentStatus): unknown {
  const { lastSampleTime: _, ...telemetry } = status.telemetry ?? {};
  const { imbalancePercent: __, boundPercent: ___, ...placement } = status.placement ?? {};
  const { operation, rollout, download, autoscale } = status;
  return {
    ...status,
    telemetry,
    placement,
    download: download && { uri: download.uri, phase: download.phase },
    operation: operation && { ...operation, message: "" },
    rollout: rollout && { ...rollout, message: "" },
    autoscale: { lastScale: autoscale?.lastScale },
    conditions: status.conditions?.map((condition) => ({ ...condition, message: "" })),
  };
}

function events(before: MoEDeploymentStatus, after: MoEDeploymentStatus): StatusEvent[] {
  return (after.conditions ?? []).flatMap(({ type, status, reason, message }): StatusEvent[] => {
    const bad = announced[type];
    const old = before.conditions?.find((one) => one.type === type);
    if (!bad || (old?.status === status && old.reason === reason)) return [];
    if (old === undefined && status !== "True") return []; // a condition that starts well is no event
    return [{ type: status === bad ? "Warning" : "Normal", reason, note: `${type}=${status}: ${message}` }];
  });
}
