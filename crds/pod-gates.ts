// Scheduling gates of pods. Ours holds a pod until its certificate is written, which names the pod's uid: no kubelet looks for its Secret
// before. Pure.
import { z } from "zod";
import { apiGroup } from "./common.ts";

export const certificateGate = `${apiGroup}/certificate`;
/** The reason of the condition PodScheduled, which outlives the last gate until a scheduler has looked at the pod. */
export const schedulingGated = "SchedulingGated";

/** Names of spec.schedulingGates. */
export const gatesSchema = z
  .array(z.object({ name: z.string() }))
  .default([])
  .transform((gates) => gates.map(({ name }) => name));

/** The pod's spec with our gate beside the template's; the API server takes none with a node's name, and judges what is no list. */
export function gated<S extends Readonly<Record<string, unknown>>>(spec: S) {
  const { nodeName, schedulingGates } = spec;
  const given = schedulingGates ?? [];
  return nodeName || !Array.isArray(given) ? spec : { ...spec, schedulingGates: [...given, { name: certificateGate }] };
}

/** What a pod waits for beside its certificate; empty where that is nothing. */
export function heldByOthers(gates: readonly string[]): string {
  const others = gates.filter((name) => name !== certificateGate);
  return others.length === 0 ? "" : `${schedulingGated}: it waits for whoever removes ${others.join(", ")}`;
}
