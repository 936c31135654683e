// What rules look at, from objects as the cluster has them. Pure.
import { z } from "zod";
import type { KubeObject } from "../../kube/kube.ts";
import type { WarningEvent } from "./finding.ts";

const managedSchema = z.array(z.object({ time: z.string().optional(), subresource: z.string().default("") }));

/** The newest write outside the status, else the creation. */
export function changedAt({ metadata }: KubeObject): Date | undefined {
  const entries = managedSchema.safeParse(metadata.managedFields ?? []).data ?? [];
  const times = entries.flatMap(({ time, subresource }) => (time !== undefined && subresource !== "status" ? [time] : []));
  const newest = [...times, metadata.creationTimestamp ?? ""].sort().at(-1) ?? "";
  return newest === "" ? undefined : new Date(newest);
}

const eventSchema = z.object({
  metadata: z.object({ namespace: z.string().default(""), creationTimestamp: z.string().nullish() }),
  involvedObject: z.object({ kind: z.string().default(""), name: z.string().default("") }).prefault({}),
  reason: z.string().default(""),
  message: z.string().default(""),
  count: z.number().nullish(),
  lastTimestamp: z.string().nullish(),
  eventTime: z.string().nullish(),
  series: z.object({ count: z.number(), lastObservedTime: z.string() }).nullish(),
});

/** Undefined for what is no event. */
export function warningOf(item: unknown): WarningEvent | undefined {
  const event = eventSchema.safeParse(item).data;
  const last = event?.series?.lastObservedTime ?? event?.lastTimestamp ?? event?.eventTime ?? event?.metadata.creationTimestamp;
  if (!event || !last) return undefined;
  const { involvedObject, reason, message, metadata } = event;
  const count = event.series?.count ?? event.count ?? 1;
  return { namespace: metadata.namespace, ...involvedObject, reason, message, count, lastAt: new Date(last) };
}
