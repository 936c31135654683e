// Which changes of a MoEDeployment's status are written at once, and which are events. Pure.
import { type MoEDeploymentStatus, moeDeploymentStatusSchema } from "../../crds/moe-deployment-status.ts";
import { deploymentKind } from "../kube/adoption.ts";
import type { StatusEvent, StatusKind } from "../kube/status-writer.ts";

/** Interval of soft writes while something happens, and while only the load changes. */
const softMs = { underWay: 10_000, idle: 60_000 };

/** The bad status of each condition whose change is an event. */
const announced: Readonly<Record<string, "True" | "False">> = {
  Ready: "False",
  Available: "False",
  Degraded: "True",
  SpecAccepted: "False",
  FieldConflict: "True",
  ModelAvailable: "False",
  TelemetryFresh: "False",
  ExpertsOversubscribed: "True",
  RolesServed: "False",
};

/** Healthy starts pass through them: a warning only where it was well before. */
const starting = "BelowMinServing Downloading NoGateway Oversubscribed PartialRanks RanksNotReady Stale TooFewRanks WeightServerNotReady";
const startingReasons: readonly string[] = starting.split(" ");

export const deploymentStatus: StatusKind<MoEDeploymentStatus> = {
  resource: deploymentKind.resource,
  read: (status) => moeDeploymentStatusSchema.safeParse(status ?? {}).data,
  softMs: (status) => (isIdle(status) ? softMs.idle : softMs.underWay),
  hard,
  events,
};

function isIdle({ conditions, operation, rollout, download }: MoEDeploymentStatus): boolean {
  const ready = conditions?.some(({ type, status }) => type === "Ready" && status === "True") ?? false;
  const done = (rollout?.phase ?? "Complete") === "Complete" && (download?.phase ?? "Done") === "Done";
  return ready && done && operation === undefined;
}

/** The status less times and the last window's balance. */
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
    const starts = startingReasons.includes(reason) && (old?.status === "Unknown" || old?.status === bad);
    return [{ type: status === bad && !starts ? "Warning" : "Normal", reason, note: `${type}=${status}: ${message}` }];
  });
}
