// What nodes have for gateways, and what a gateway asks for (core/first-gateways.ts).
import { z } from "zod";
import type { KubeObject } from "../../kube/kube.ts";
import type { GatewayNeeds, NodeCapacity } from "../core/first-gateways.ts";
import { nodeSchema } from "./pod-facts.ts";

const capacitySchema = nodeSchema.extend({
  metadata: z.object({ name: z.string(), labels: z.record(z.string(), z.string()).default({}) }),
  status: nodeSchema.shape.status
    .unwrap()
    .extend({ allocatable: z.record(z.string(), z.string()).optional() })
    .prefault({}),
});

/** What a node has for pods in all, whoever uses it. */
export function nodeCapacity(node: KubeObject): NodeCapacity[] {
  const read = capacitySchema.safeParse(node).data;
  if (!read) return [];
  const { metadata, spec, status } = read;
  const ready = status.conditions.some(({ type, status: is }) => type === "Ready" && is === "True");
  const isOpen = ready && !spec.unschedulable && spec.taints.every(({ effect }) => effect === "PreferNoSchedule");
  return [{ ...metadata, isOpen, allocatable: status.allocatable }];
}

const needsSchema = z.object({
  nodeSelector: z.record(z.string(), z.string()).default({}),
  affinity: z.unknown().optional(),
  containers: z.array(z.object({ resources: z.object({ requests: z.record(z.string(), z.coerce.string()).default({}) }).prefault({}) })),
});

/** Undefined for a template that is not understood. */
export function gatewayNeeds(spec: object): GatewayNeeds | undefined {
  const read = needsSchema.safeParse(spec).data;
  if (!read) return undefined;
  const { nodeSelector, affinity, containers } = read;
  return { nodeSelector, hasAffinity: affinity !== undefined, requests: containers.map(({ resources }) => resources.requests) };
}
