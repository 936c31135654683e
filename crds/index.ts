// The registered kinds of the API group, with names, columns and subresources.
import type { z } from "zod";
import { apiGroup } from "./common.ts";
import { expertPlacementSpecSchema, expertPlacementStatusSchema } from "./expert-placement.ts";
import { moeDeploymentNameRule, moeDeploymentSpecSchema } from "./moe-deployment.ts";
import { moeDeploymentStatusSchema } from "./moe-deployment-status.ts";
import { moeTrainingJobNameRule, moeTrainingJobSpecSchema } from "./moe-training-job.ts";
import { moeTrainingJobStatusSchema } from "./moe-training-job-status.ts";
import { type JsonObject, structuralSchema } from "./openapi.ts";

interface Column {
  readonly name: string;
  readonly type: "string" | "integer" | "date";
  readonly jsonPath: string;
  readonly description: string;
  readonly priority?: number;
}

export interface Kind {
  readonly kind: string;
  readonly plural: string;
  readonly singular: string;
  readonly shortNames: readonly string[];
  readonly description: string;
  readonly spec: z.ZodType;
  readonly status: z.ZodType;
  readonly columns: readonly Column[];
  readonly scale?: { readonly specReplicasPath: string; readonly statusReplicasPath: string; readonly labelSelectorPath: string };
  readonly rules: readonly { readonly rule: string; readonly message: string }[];
}

const age: Column = { name: "Age", type: "date", jsonPath: ".metadata.creationTimestamp", description: "Since creation." };
const condition = (type: string, field: string) => `.status.conditions[?(@.type=="${type}")].${field}`;

export const kinds: readonly Kind[] = [
  {
    kind: "MoEDeployment",
    plural: "moedeployments",
    singular: "moedeployment",
    shortNames: ["moed"],
    description: "MoEDeployment serves one Mixture-of-Experts model with its experts spread over worker pods.",
    spec: moeDeploymentSpecSchema,
    status: moeDeploymentStatusSchema,
    scale: { specReplicasPath: ".spec.replicas", statusReplicasPath: ".status.replicas", labelSelectorPath: ".status.selector" },
    rules: [moeDeploymentNameRule],
    columns: [
      { name: "Status", type: "string", jsonPath: condition("Ready", "reason"), description: "Why it is (not) ready." },
      { name: "Ready", type: "string", jsonPath: ".status.ready", description: "Ranks that serve, of those wanted." },
      { name: "Model", type: "string", jsonPath: ".spec.model.uri", description: "What is served." },
      { name: "Imbalance%", type: "integer", jsonPath: ".status.placement.imbalancePercent", description: "Worst layer, max over mean." },
      { name: "Epoch", type: "integer", jsonPath: ".status.placement.epoch", description: "Committed placement epoch.", priority: 1 },
      {
        name: "Telemetry",
        type: "string",
        jsonPath: condition("TelemetryFresh", "status"),
        description: "Whether load arrives.",
        priority: 1,
      },
      { name: "Operation", type: "string", jsonPath: ".status.operation.type", description: "What is under way.", priority: 1 },
      { name: "Rollout", type: "string", jsonPath: ".status.rollout.phase", description: "How far the template is rolled.", priority: 1 },
      {
        name: "Autoscale",
        type: "string",
        jsonPath: ".status.autoscale.progress",
        description: "What replicas are scaled by, value/target.",
        priority: 1,
      },
      { name: "Roles", type: "string", jsonPath: ".status.expertParallel.roles", description: "Ranks that serve by role.", priority: 1 },
      { name: "Runtime", type: "string", jsonPath: ".status.runtimeImage.image", description: "Image of the workers.", priority: 1 },
      {
        name: "Update",
        type: "string",
        jsonPath: ".status.runtimeImage.available",
        description: "Image that the operator comes with, where it is another.",
        priority: 1,
      },
      {
        name: "Stand-In",
        type: "string",
        jsonPath: ".status.rollout.green.name",
        description: "The deployment that serves while the model changes.",
        priority: 1,
      },
      {
        name: "Download",
        type: "string",
        jsonPath: ".status.download.progress",
        description: "How much of the model is in its cache.",
        priority: 1,
      },
      age,
    ],
  },
  {
    kind: "ExpertPlacement",
    plural: "expertplacements",
    singular: "expertplacement",
    shortNames: ["eplace"],
    description: "ExpertPlacement holds the durable expert placement of one MoEDeployment. Written by the operator.",
    spec: expertPlacementSpecSchema,
    status: expertPlacementStatusSchema,
    rules: [],
    columns: [
      { name: "Epoch", type: "integer", jsonPath: ".spec.epoch", description: "Newest plan." },
      { name: "Phase", type: "string", jsonPath: ".status.phase", description: "How far it is carried out." },
      { name: "Imbalance%", type: "integer", jsonPath: ".status.measured.imbalancePercent", description: "Measured, worst layer." },
      { name: "Bound%", type: "integer", jsonPath: ".status.predicted.boundPercent", description: "Least the memory allows.", priority: 1 },
      { name: "Moves", type: "integer", jsonPath: ".status.predicted.moves", description: "Expert replicas newly placed by it." },
      { name: "Reason", type: "string", jsonPath: ".status.reason", description: "Why it was made or held.", priority: 1 },
      age,
    ],
  },
  {
    kind: "MoETrainingJob",
    plural: "moetrainingjobs",
    singular: "moetrainingjob",
    shortNames: ["moet"],
    description: "MoETrainingJob trains one Mixture-of-Experts model on token data, and ends with a model that a MoEDeployment serves.",
    spec: moeTrainingJobSpecSchema,
    status: moeTrainingJobStatusSchema,
    scale: { specReplicasPath: ".spec.replicas", statusReplicasPath: ".status.replicas", labelSelectorPath: ".status.selector" },
    rules: [moeTrainingJobNameRule],
    columns: [
      { name: "Step", type: "integer", jsonPath: ".status.step", description: "The last step that is known to be done." },
      { name: "Progress", type: "string", jsonPath: ".status.progress", description: "Share of the steps." },
      { name: "Loss", type: "string", jsonPath: ".status.loss", description: "Of the last step." },
      { name: "Tokens/s", type: "integer", jsonPath: ".status.tokensPerSecond", description: "Over the last steps." },
      { name: "Ranks", type: "integer", jsonPath: ".status.readyReplicas", description: "Pods that train." },
      { name: "ETA", type: "string", jsonPath: ".status.eta", description: "Time that is left." },
      { name: "Status", type: "string", jsonPath: condition("Running", "reason"), description: "What it does, or why not." },
      { name: "Restarts", type: "integer", jsonPath: ".status.restarts", description: "Failed pods.", priority: 1 },
      { name: "Model", type: "string", jsonPath: ".spec.model.uri", description: "What is trained.", priority: 1 },
      age,
    ],
  },
];

export function customResourceDefinition(kind: Kind): JsonObject {
  const schema: JsonObject = {
    description: kind.description,
    type: "object",
    required: ["spec"],
    properties: {
      apiVersion: { type: "string" },
      kind: { type: "string" },
      metadata: { type: "object" },
      spec: structuralSchema(kind.spec, `${kind.kind}.spec`),
      status: structuralSchema(kind.status, `${kind.kind}.status`),
    },
    ...(kind.rules.length > 0 ? { "x-kubernetes-validations": kind.rules.map((rule) => ({ ...rule })) } : {}),
  };
  return {
    apiVersion: "apiextensions.k8s.io/v1",
    kind: "CustomResourceDefinition",
    metadata: { name: `${kind.plural}.${apiGroup}` },
    spec: {
      group: apiGroup,
      names: {
        kind: kind.kind,
        listKind: `${kind.kind}List`,
        plural: kind.plural,
        singular: kind.singular,
        shortNames: [...kind.shortNames],
        categories: ["moe"],
      },
      scope: "Namespaced",
      versions: [
        {
          name: "v1alpha1",
          served: true,
          storage: true,
          additionalPrinterColumns: kind.columns.map((column) => ({ ...column })) as JsonObject[],
          schema: { openAPIV3Schema: schema },
          subresources: { status: {}, ...(kind.scale ? { scale: { ...kind.scale } } : {}) },
        },
      ],
    },
  };
}
