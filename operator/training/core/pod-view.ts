// A training pod as decisions see it. Pure.
import { z } from "zod";
import { annotations, labels } from "../../../crds/common.ts";
import type { GangName } from "../../../crds/names.ts";
import { gatesSchema, heldByOthers, schedulingGated } from "../../../crds/pod-gates.ts";
import { parseTrainingEnd, type TrainingEnd } from "../../../crds/training-report.ts";
import { ranksMax } from "../../../crds/training-world.ts";

export interface PodView {
  readonly name: string;
  readonly uid: string;
  /** -1 where the label is missing or invalid. */
  readonly rank: number;
  /** Earlier pods of its rank; -1 where the label is missing. */
  readonly attempt: number;
  readonly hash: string;
  /** Generation of the spec that it was made from. */
  readonly generation: number;
  /** Unix ms of its creation; 0 where unknown. */
  readonly since: number;
  /** It did not answer the last poll. */
  readonly silent: boolean;
  readonly deleting: boolean;
  readonly running: boolean;
  readonly ip: string | undefined;
  readonly node: string;
  /** Names of what its scheduler waits for. */
  readonly gates: readonly string[];
  /** The node that it is held to by a claim. */
  readonly held?: string | undefined;
  /** Undefined where it is scheduled alone. */
  readonly gang?: GangName | undefined;
  /** Why it does not run. */
  readonly waiting: string | undefined;
  /** Its end; undefined while it has not ended. */
  readonly over:
    | { readonly end: TrainingEnd | undefined; readonly disrupted: boolean; readonly reason: string; readonly message: string }
    | undefined;
}

const defaultScheduler = "default-scheduler";
const terminated = z.object({ exitCode: z.number().default(0), reason: z.string().optional(), message: z.string().optional() });
const podSchema = z.object({
  metadata: z.object({
    name: z.string(),
    uid: z.string().default(""),
    labels: z.record(z.string(), z.string()).default({}),
    annotations: z.record(z.string(), z.string()).default({}),
    creationTimestamp: z.string().optional(),
    deletionTimestamp: z.string().optional(),
  }),
  spec: z
    .object({ nodeName: z.string().default(""), schedulerName: z.string().default(defaultScheduler), schedulingGates: gatesSchema })
    .prefault({}),
  status: z
    .object({
      phase: z.string().default("Pending"),
      reason: z.string().optional(),
      message: z.string().optional(),
      podIP: z.string().optional(),
      conditions: z
        .array(z.object({ type: z.string(), status: z.string(), reason: z.string().optional(), message: z.string().optional() }))
        .default([]),
      containerStatuses: z
        .array(
          z.object({
            name: z.string(),
            state: z
              .object({
                running: z.unknown().optional(),
                waiting: z.object({ reason: z.string().optional(), message: z.string().optional() }).optional(),
                terminated: terminated.optional(),
              })
              .default({}),
          }),
        )
        .default([]),
    })
    .default({ phase: "Pending", conditions: [], containerStatuses: [] }),
});
type Pod = z.infer<typeof podSchema>;

export const container = "runtime";

export function podView(object: unknown, silent = false): PodView {
  const pod = podSchema.parse(object);
  const { metadata, spec, status } = pod;
  return {
    name: metadata.name,
    uid: metadata.uid,
    rank: rankOf(metadata.labels[labels.rank]),
    attempt: whole(metadata.name.replace(/^.*-/, "")),
    hash: metadata.annotations[annotations.templateHash] ?? "",
    generation: whole(metadata.annotations[annotations.generation]),
    since: Date.parse(metadata.creationTimestamp ?? "") || 0,
    silent,
    deleting: metadata.deletionTimestamp !== undefined,
    running: status.phase === "Running",
    ip: status.podIP,
    node: spec.nodeName,
    gates: spec.schedulingGates,
    held: metadata.annotations[annotations.claimNode],
    waiting: waitingText(pod),
    over: overOf(pod),
  };
}

/** Others can write labels, and the rank determines sizes. */
function rankOf(label: string | undefined): number {
  const rank = whole(label);
  return rank < ranksMax ? rank : -1;
}

const whole = (text: string | undefined): number => (/^\d{1,9}$/.test(text ?? "") ? Number(text) : -1);

function waitingText({ spec: { nodeName, schedulerName, schedulingGates }, status }: Pod): string | undefined {
  if (schedulingGates.length > 0) return heldByOthers(schedulingGates) || undefined;
  const scheduled = status.conditions.find(({ type, reason }) => type === "PodScheduled" && reason !== schedulingGated);
  if (scheduled?.status === "False") return `${scheduled.reason ?? "Unscheduled"}: ${scheduled.message ?? ""}`;
  if (scheduled === undefined && nodeName === "" && schedulerName !== defaultScheduler)
    return `the scheduler ${schedulerName} has not said a word about it`;
  const { waiting } = status.containerStatuses.find(({ name }) => name === container)?.state ?? {};
  return waiting?.reason === undefined ? undefined : `${waiting.reason}${waiting.message ? `: ${waiting.message}` : ""}`;
}

/** The phase ends only once all containers have ended; sidecars may remain. */
function overOf({ metadata, status }: Pod): PodView["over"] {
  const state = status.containerStatuses.find(({ name }) => name === container)?.state.terminated;
  const phaseOver = status.phase === "Succeeded" || status.phase === "Failed";
  if (state === undefined && !phaseOver) return undefined;
  const end = parseTrainingEnd(state?.message);
  const disruption = status.conditions.find(({ type, status: is }) => type === "DisruptionTarget" && is === "True");
  return {
    end,
    // A deleted pod was told to end, even where it had no time to report it.
    disrupted: disruption !== undefined || (metadata.deletionTimestamp !== undefined && end?.outcome !== "Failed"),
    reason: state?.reason ?? status.reason ?? "PodFailed",
    message: state ? exitText(state, end === undefined) : (status.message ?? `the pod is ${status.phase}`),
  };
}

const textMax = 300;

/** The kubelet's message where the container left none. */
function exitText({ exitCode, message = "" }: z.infer<typeof terminated>, silent: boolean): string {
  const text = silent ? message.trim().slice(-textMax) : "";
  return `exit code ${exitCode}${text === "" ? "" : `: ${text}`}`;
}
