// Reads a deployment's HTTPRoute. Others write its status, so that unreadable parts are skipped.
import { z } from "zod";
import type { KubeObject } from "../kube/kube.ts";
import type { RouteFacts } from "./core/snapshot.ts";

const condition = z.object({
  type: z.string(),
  status: z.string(),
  reason: z.string().default(""),
  message: z.string().default(""),
  observedGeneration: z.number().optional(),
});
const parent = z.object({
  parentRef: z.object({
    group: z.string().default("gateway.networking.k8s.io"),
    kind: z.string().default("Gateway"),
    name: z.string(),
    namespace: z.string().optional(),
    sectionName: z.string().optional(),
  }),
  controllerName: z.string().default("a controller without a name"),
  conditions: z.array(condition).default([]),
});
const statusSchema = z.object({ status: z.object({ parents: z.array(z.unknown()).default([]) }).prefault({}) });

export function routeFacts(served: RouteFacts["served"], object: KubeObject | undefined): RouteFacts {
  if (!object) return { served, route: undefined };
  const parents = (statusSchema.safeParse(object).data?.status.parents ?? []).flatMap((one) => {
    const { data } = parent.safeParse(one);
    if (data?.parentRef.kind !== "Gateway") return [];
    const { name, namespace, sectionName } = data.parentRef;
    return [{ name, namespace, sectionName, controller: data.controllerName, conditions: data.conditions }];
  });
  return { served, route: { generation: object.metadata.generation ?? 0, parents } };
}
