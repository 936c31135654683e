// What the operator reads of a pod: untrusted, since nodes write it.
import { z } from "zod";
import { gatesSchema } from "../../../crds/pod-gates.ts";

const state = z.object({
  waiting: z.object({ reason: z.string().default(""), message: z.string().default("") }).optional(),
  running: z.object({ startedAt: z.string().default("") }).optional(),
  terminated: z.object({ reason: z.string().default(""), exitCode: z.number().default(0), message: z.string().default("") }).optional(),
});
const variable = z.object({ name: z.string(), value: z.string().optional() });
export const condition = z.object({
  type: z.string(),
  status: z.string(),
  reason: z.string().default(""),
  message: z.string().default(""),
  lastTransitionTime: z
    .string()
    .nullish()
    .transform((time) => time ?? ""),
});
export const podSchema = z.object({
  spec: z
    .object({
      nodeName: z.string().optional(),
      schedulerName: z.string().default("default-scheduler"),
      schedulingGates: gatesSchema,
      containers: z.array(z.object({ name: z.string(), image: z.string().default(""), env: z.array(variable).default([]) })).default([]),
      tolerations: z.array(z.object({ key: z.string().default(""), effect: z.string().default("") })).default([]),
    })
    .prefault({}),
  status: z
    .object({
      phase: z.string().default("Pending"),
      podIP: z.string().optional(),
      reason: z.string().default(""),
      message: z.string().default(""),
      conditions: z.array(condition).default([]),
      containerStatuses: z
        .array(
          z.object({
            ready: z.boolean().default(false),
            state: state.default({}),
            lastState: state.default({}),
            restartCount: z.number().default(0),
          }),
        )
        .default([]),
    })
    .prefault({}),
});
export type PodStatus = z.infer<typeof podSchema>["status"];
export type ContainerStatus = PodStatus["containerStatuses"][number];
export type PodSpec = z.infer<typeof podSchema>["spec"];
