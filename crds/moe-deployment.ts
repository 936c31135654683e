// MoEDeployment: one model served by one expert-parallel world. Spec, defaults and CEL rules; the operator renders every field, or
// SpecAccepted=False refuses it.
import { z } from "zod";
import { autoscale } from "./autoscale.ts";
import { deviceMemoryBackends } from "./backends.ts";
import { AppError } from "./common.ts";
import { experts } from "./experts-spec.ts";
import {
  apiKeySecretRef,
  gatewayClients,
  gatewayCors,
  gatewayTls,
  isolationNeedsNames,
  prefixIsolation,
  routing,
  unknownFields,
} from "./gateway-access.ts";
import { gatewayAutoscale, gatewayReplicasMost } from "./gateway-autoscale.ts";
import { clientsNeedNames, gatewayJwtField } from "./gateway-jwt.ts";
import { gatewayRoute } from "./gateway-route.ts";
import { kvOffload } from "./kv-offload.ts";
import { modelSchema, modelUriPattern } from "./model.ts";
import { moeDeploymentStatusSchema } from "./moe-deployment-status.ts";
import {
  codecNames,
  defaultBackend,
  defaultCodec,
  defaultImageRollout,
  defaultPolicy,
  imageRollouts,
  kvTypes,
  podBackendChoices,
  policyNames,
  rebalancingModes,
} from "./names.ts";
import { rules } from "./openapi.ts";
import { podTemplateOf } from "./pod-template.ts";
import { duration, quantity } from "./quantity.ts";
import { roles, rolesRules } from "./roles.ts";
import { rolloutStrategy } from "./rollout.ts";
import { scheduling } from "./scheduling.ts";
import { secretRef } from "./secret-ref.ts";

const trigger = z
  .object({
    imbalancePercent: z
      .int32()
      .max(10_000)
      .default(110)
      .meta({
        description: "Plan when the worst layer's max/mean load over ranks exceeds this percentage.",
        ...rules({ rule: "self >= 101", message: "must be at least 101: 100 is perfect balance" }),
      }),
    window: duration("Span of load a decision looks at.", { value: "1s", why: "workers report load three times in a window" }).default(
      "15s",
    ),
    minTokens: z.int32().min(0).default(5000).meta({ description: "Expert selections per layer below which a window is taken as noise." }),
  })
  .prefault({})
  .meta({ description: "When a new placement is worth computing." });

const policyText =
  "How placements are planned. incremental: from the present placement, the steps that pay for their transfer. " +
  "hecate, eplb: after the published systems.";
const rebalancing = z
  .object({
    mode: z.enum(rebalancingModes).default("Auto").meta({
      description:
        "Auto moves experts. Recommend publishes the plan that Auto would carry out, in the status of ExpertPlacement. Off does neither. What losses, leaving and new ranks need is done in every mode.",
    }),
    policy: z.enum(policyNames).default(defaultPolicy).meta({ description: policyText }),
    trigger,
    interval: duration("Least time between two plans.").default("15s"),
    budget: z
      .object({
        maxMoves: z.int32().min(1).max(1_000_000).optional().meta({
          description: "Expert replicas one plan may newly place, never more. When not given: 64, and 128 right after a change of load.",
        }),
        maxMovesPerRank: z
          .int32()
          .min(1)
          .max(1_000_000)
          .optional()
          .meta({ description: "Expert replicas one plan may newly place on one rank; no limit of its own when not given." }),
        maxBytes: quantity("Bytes one plan may send.").optional(),
        maxTransferBytesPerSecond: quantity(
          "Bytes per second each rank may take while experts move for balance, less while tokens come slower. Repair, drain and fill are not limited.",
        ).default("64Mi"),
      })
      .prefault({})
      .meta({ description: "What one plan may cost." }),
  })
  .prefault({})
  .meta({ description: "How experts follow the load." });

const devicesOfRank = z.int32().min(1).max(16).default(1).meta({
  description:
    "Devices of a rank, which share the model's layers: its dense part, attention cache and experts may take the memory of all. They compute one after another, so that ranks of one device each are faster where a model's dense part fits in one. Ask for as many in the resources of the pod template, such as nvidia.com/gpu: 2.",
});

/** These bounds also limit the cost of the CEL rules. */
const specBounds = {
  replicas: 1024,
  gatewayReplicas: gatewayReplicasMost,
  nameLength: 40,
  imageLength: 512,
} as const;

const count = (max: number) => z.int32().min(0).max(max);

const runtimeImage = z
  .object({
    rollout: z.enum(imageRollouts).default(defaultImageRollout).meta({
      description:
        "Manual keeps the runtime image when the operator is upgraded, until `image` names another: status.runtimeImage has the one in use and the one that the operator comes with. Auto rolls to the operator's as soon as it comes.",
    }),
    image: z.string().min(1).max(specBounds.imageLength).regex(/^\S+$/).optional().meta({
      description:
        "Image of workers and gateways; naming another rolls to it. When not given: the one that they were rolled to last, and for a new deployment the operator's. An image that podTemplate names wins.",
    }),
  })
  .prefault({})
  .meta({
    description: "Which build of the runtime workers and gateways run.",
    ...rules({
      rule: "self.rollout != 'Auto' || !has(self.image)",
      message: "image is for rollout Manual: with Auto the operator's image is rolled out",
      fieldPath: ".image",
    }),
  });

const elasticity = z
  .object({
    minReplicas: count(specBounds.replicas).default(0).meta({ description: "Least value replicas may be set or scaled to." }),
    maxReplicas: z
      .int32()
      .min(1)
      .max(specBounds.replicas)
      .optional()
      .meta({ description: "Largest value replicas may be set or scaled to." }),
    autoscale,
    settle: duration("How long a changed replicas value must stand still before it is acted on, so that a burst is one resize.").default(
      "5s",
    ),
    drain: duration("How long a leaving rank may finish its requests and hand its experts over before it is removed.").default("60s"),
    operationTimeout: duration("How long a resize, roll or repair may take before it is reported as Progressing=False.", {
      value: "1s",
      why: "every operation takes some time",
    }).default("15m"),
  })
  .prefault({})
  .meta({
    description: "How the deployment may be resized.",
    ...rules(
      {
        rule: "!has(self.maxReplicas) || self.minReplicas <= self.maxReplicas",
        message: "minReplicas must not be above maxReplicas",
      },
      {
        rule: "!has(self.autoscale) || (self.autoscale.min >= self.minReplicas && (!has(self.maxReplicas) || self.autoscale.max <= self.maxReplicas))",
        message: "autoscale.min and autoscale.max must lie within minReplicas and maxReplicas, or these are left out",
        fieldPath: ".autoscale",
      },
      {
        rule: "!has(self.autoscale) || !has(self.autoscale.scaleToZero) || self.minReplicas == 0",
        message: "autoscale.scaleToZero sets replicas to 0: leave minReplicas out, or set it to 0",
        fieldPath: ".minReplicas",
      },
    ),
  });

const runtime = z
  .object({
    backend: z.enum(podBackendChoices).default(defaultBackend).meta({
      description:
        "Compute backend of the workers: ggml on the processor (cpu), on NVIDIA's GPUs (cuda) or on any GPU whose Vulkan driver is in the image (vulkan). cuda and vulkan want a runtime image whose tag ends in their name, and a GPU that the pod asks for. Auto takes the first of cuda, vulkan and cpu whose library is in the image and whose device is there, none in software; the condition ModelAvailable names the devices taken. reference is slow and for tests.",
    }),
    expertCodec: z.enum(codecNames).default(defaultCodec).meta({
      description:
        "Stored form of the experts that workers load: a type of ggml, of which q4_0 is the fastest and iq4_nl loses least at that size, f32, which is large and exact, or source, which is for each matrix the type that the imported file has. The import must have written it.",
    }),
    maxContext: z.int32().min(16).max(1_048_576).default(4096).meta({ description: "Tokens of prompt and answer one request may hold." }),
    kvPool: quantity(
      "Bytes of attention cache per rank. A token takes 2 x layers x KV heads x head size x bytes of kvType, in blocks of 64 tokens, while its request runs. So this decides how many run at once. It must hold one request of maxContext. When not given: what the container's memory limit, or the device, leaves beside experts.memoryPerRank and the dense part, and a quarter of what it or the node leaves where memoryPerRank or the limit is not given; at least one request of maxContext. status.model.requestsPerRankReason says how much that is.",
    ).optional(),
    kvType: z.enum(kvTypes).optional().meta({
      description:
        "Number type of the attention cache. f16 and q8_0 hold two and almost four times the tokens of f32, with errors of about 1e-3 and 5e-3 of the largest value; of GPUs not all have q8_0. When not given: what the device is fastest with, which on a processor is f32 and on a GPU f16.",
    }),
    kvOffload,
    maxBatchTokens: z.int32().min(16).max(4096).optional().meta({
      description:
        "Prompt tokens that a rank computes in one step while none of its requests generates; fewer while some do. When not given: 2048 on a GPU with memory of its own that attends in one operation, else 256.",
    }),
    maxDecodeBatch: z.int32().min(1).max(64).default(64).meta({
      description: "Requests for which a rank generates in one step; more take turns.",
    }),
    decodeWait: duration(
      "The time for which prompts of others may hold up the next token of a request, at most: on a processor a graph of one layer is the least, and on a GPU a rank chooses by it how many prompt tokens it computes in the same step.",
      {
        value: "1ms",
        why: "no step is shorter",
      },
    ).default("20ms"),
    prefillParallelism: z.int32().min(1).max(64).default(1).meta({
      description:
        "Ranks that share the attention of a prompt of 2,048 tokens or more, its own included: each has some of the heads, so at most as many as the model has heads of keys. Texts stay the same, and a rank that is lost costs time alone. It shortens a long prompt where other ranks have time to spare, and sends 4 bytes for each query, key, value and output of the other ranks' heads. Each rank keeps memory for its heads of one context of maxContext besides. Processors alone do it, one prompt of other ranks at a time.",
    }),
    devices: devicesOfRank,
    deviceExpertMemory: quantity(
      "Device memory of a rank for copies of experts, all of which lie in the machine's memory then: experts.memoryPerRank and the container's memory limit count that. The processor computes rows of a layer beside the device, those of experts without a copy and others by measured times. When not given: all experts lie on the device. Ranks without a device do not use it.",
    ).optional(),
    deviceDenseMemory: quantity(
      "Device memory of a rank for what is not experts: embedding, attention, routers and head. Weights of layers for which it is too small lie in the machine's memory, which the container's memory limit counts, and are copied to the device for each use, one layer while the one before computes. A step takes at least the time of these copies, so that it pays for many requests at once. When not given: all lie on the device, and a rank whose device lacks the memory is refused. Ranks without a device do not use it.",
    ).optional(),
    draftTokens: z.int32().min(0).max(16).default(0).meta({
      description:
        "Tokens at most that a rank guesses from what was said before, and computes with the next one while it generates for one request alone. Texts stay the same, since a guess counts only where the model agrees; what repeats itself comes faster, other texts slower by some percent. 0 guesses nothing, and so do backends to which a token alone has other bits than in a prompt.",
    }),
  })
  .prefault({})
  .meta({ description: "How workers compute." });

const telemetry = z
  .object({
    nats: z
      .object({
        url: z
          .string()
          .max(253)
          .regex(/^(nats|tls):\/\/[^\s/]+$/)
          .optional()
          .meta({ description: "NATS server, such as nats://nats.messaging:4222; the operator's default when not given." }),
        credentialsSecretRef: secretRef(
          "Secret of type enodia.dev/nats-credentials with the key user.creds (a NATS credentials file) or token, and ca.crt where the server's certificate has a CA of its own. One of another type is not read.",
        ).optional(),
        subjectPrefix: z
          .string()
          .max(64)
          .regex(/^[A-Za-z0-9_-]+$/)
          .default("enodia")
          .meta({ description: "First part of the load subjects." }),
      })
      .prefault({})
      .meta({ description: "Where load is published; the operator hears it on its own connections where that fails." }),
    staleAfter: duration("Age of the last load message after which nothing is moved for balance.", {
      value: "10s",
      why: "workers report load up to 5 s apart",
    }).default("30s"),
  })
  .prefault({})
  .meta({ description: "How load reaches the planner." });

const podTemplate = podTemplateOf("worker", "runtime");

const gateway = z
  .object({
    replicas: count(specBounds.gatewayReplicas).optional().meta({
      description:
        "Gateway pods (HTTP, no GPU). When not given, their number is not the operator's: it starts with two if two Ready nodes can take one each, else with one, and an autoscaler or kubectl scale may set it on the Deployment <name>-gateway.",
    }),
    autoscale: gatewayAutoscale.optional(),
    apiKeySecretRef,
    jwt: gatewayJwtField,
    tls: gatewayTls,
    cors: gatewayCors,
    clients: gatewayClients,
    unknownFields,
    routing,
    prefixIsolation,
    httpRoute: gatewayRoute,
    podTemplate: podTemplateOf("gateway", "gateway"),
  })
  .prefault({})
  .meta({
    description: "The OpenAI-compatible front.",
    ...rules(
      {
        rule: "!has(self.replicas) || !has(self.autoscale)",
        message:
          "replicas and autoscale exclude each other: remove gateway.replicas (with null in a merge patch), or leave autoscale out. Earlier versions stored replicas 1 by default",
      },
      clientsNeedNames,
      isolationNeedsNames,
    ),
  });

export const moeDeploymentSpecSchema = z
  .object({
    suspend: z.boolean().default(false).meta({ description: "Removes all pods and keeps everything else." }),
    model: modelSchema,
    replicas: count(specBounds.replicas)
      .default(1)
      .meta({ description: "Worker pods; one pod is one rank on one device. The field of kubectl scale." }),
    roles,
    elasticity,
    experts,
    runtime,
    runtimeImage,
    rolloutStrategy,
    rebalancing,
    telemetry,
    failurePolicy: z
      .object({
        minServingReplicas: count(specBounds.replicas).default(1).meta({ description: "Serving ranks below which Available is False." }),
      })
      .prefault({})
      .meta({ description: "What still counts as serving." }),
    scheduling,
    podTemplate,
    gateway,
    service: z
      .object({ port: z.int32().min(1).max(65_535).default(8000).meta({ description: "Port of the Service in front of the gateways." }) })
      .prefault({})
      .meta({ description: "The Service clients use." }),
  })
  .meta({
    description: "What to serve and how.",
    ...rules(
      {
        rule: "self.replicas >= self.elasticity.minReplicas",
        message: "replicas is below elasticity.minReplicas: raise replicas or lower the minimum",
        fieldPath: ".replicas",
      },
      {
        rule: "!has(self.elasticity.maxReplicas) || self.replicas <= self.elasticity.maxReplicas",
        message: "replicas is above elasticity.maxReplicas: lower replicas or raise the maximum",
        fieldPath: ".replicas",
      },
      ...rolesRules,
      {
        rule: "self.elasticity.minReplicas == 0 || self.failurePolicy.minServingReplicas <= self.elasticity.minReplicas",
        message: "failurePolicy.minServingReplicas must not be above elasticity.minReplicas, or a legal scale would count as an outage",
      },
      {
        rule: "!has(self.elasticity.maxReplicas) || self.failurePolicy.minServingReplicas <= self.elasticity.maxReplicas",
        message: "failurePolicy.minServingReplicas must not be above elasticity.maxReplicas, or it could never be reached",
      },
      {
        rule: "!has(self.elasticity.autoscale) || self.failurePolicy.minServingReplicas <= self.elasticity.autoscale.min",
        message:
          "failurePolicy.minServingReplicas must not be above elasticity.autoscale.min, or a number that the autoscaler may set would count as an outage",
      },
      {
        rule: `!(self.runtime.backend in ['${deviceMemoryBackends.join("', '")}']) || has(self.experts.memoryPerRank)`,
        message: `experts.memoryPerRank is required with runtime.backend ${deviceMemoryBackends.join(", ")}: set it to the device memory that experts may take`,
      },
    ),
  });
export type MoEDeploymentSpec = z.infer<typeof moeDeploymentSpecSchema>;
export type PodTemplate = NonNullable<MoEDeploymentSpec["podTemplate"]>;

const metadata = z.object({
  name: z.string().min(1),
  namespace: z.string().min(1),
  uid: z.string().min(1),
  generation: z.number().int().default(1),
  resourceVersion: z.string().default(""),
  labels: z.record(z.string(), z.string()).optional(),
  annotations: z.record(z.string(), z.string()).optional(),
  deletionTimestamp: z.string().optional(),
});

const moeDeploymentSchema = z.object({ metadata, spec: moeDeploymentSpecSchema, status: moeDeploymentStatusSchema.default({}) });
export type MoEDeployment = z.infer<typeof moeDeploymentSchema>;

/** The name becomes a Service name, a pod name prefix and a label value. */
export const moeDeploymentNameRule = {
  rule: `self.metadata.name.size() <= ${specBounds.nameLength} && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && self.metadata.name != 'default'`,
  message: `metadata.name must be a DNS label of at most ${specBounds.nameLength} characters that begins with a letter, and not default: Services, pods and a ServiceAccount are named after it`,
};

/** Throws AppError `InvalidSpec` that names the fields. */
export function parseMoEDeployment(object: unknown): MoEDeployment {
  const parsed = moeDeploymentSchema.safeParse(object);
  if (parsed.success) return parsed.data;
  throw new AppError(z.prettifyError(parsed.error), { code: "InvalidSpec", operation: "reading a MoEDeployment", cause: parsed.error });
}

export function parseModelUri(uri: string): { claim: string; folder: string } {
  if (!new RegExp(modelUriPattern).test(uri)) {
    throw new AppError(`spec.model.uri: "${uri}" is not pvc://<claim>/<folder>`, { code: "InvalidSpec", operation: "reading a spec" });
  }
  const [claim = "", ...folder] = uri.slice("pvc://".length).split("/");
  return { claim, folder: folder.join("/") };
}
