// Schema of the chart's values, from which charts/enodia/values.schema.json is generated; defaults stay in values.yaml.
import { z } from "zod";
import { operatorLogLevels, pageAccesses, pullPolicies } from "./names.ts";

const name = z.string().max(253);
const stringMap = z.record(z.string(), z.string());
const object = z.record(z.string(), z.unknown());
const objects = z.array(object).max(64);
const pullPolicy = z.enum(pullPolicies);
const url = z.string().max(512);
/** `--set` turns a decimal into a string. */
const ratio = z.union([z.number().min(0).max(1), z.string().regex(/^(0(\.\d{1,9})?|1(\.0{1,9})?)$/)]);
const portList = z.array(z.int().min(1).max(65_535)).min(1).max(16);

const image = z
  .strictObject({
    repository: z.string().min(1).max(255),
    tag: z.string().max(128),
    digest: z.string().regex(/^(sha256:[0-9a-f]{64})?$/),
    pullPolicy,
  })
  .partial();

const scheduling = { nodeSelector: stringMap, tolerations: objects, affinity: object, priorityClassName: name };

const resources = z.strictObject({ requests: object.optional(), limits: object.optional() });

const monitor = z.strictObject({
  enabled: z.boolean(),
  interval: z.string().regex(/^\d+(ms|s|m)$/),
  labels: stringMap,
  annotations: stringMap,
});

/** All optional: Helm checks merged values, and subcharts may pass `global` keys. */
const chartValuesSchema = z
  .strictObject({
    nameOverride: z.string().max(63),
    fullnameOverride: z.string().max(63),
    commonLabels: stringMap,
    global: z.looseObject({ imageRegistry: z.string().max(255).optional(), imagePullSecrets: z.array(name).max(16).optional() }),
    image,
    runtimeImage: image,
    trainingImage: image,
    replicaCount: z.int().min(0).max(16),
    watchNamespaces: z.array(z.string().max(63)).max(64),
    logLevel: z.enum(operatorLogLevels),
    resources,
    ...scheduling,
    topologySpreadConstraints: objects,
    podAnnotations: stringMap,
    podLabels: stringMap,
    extraEnv: objects,
    extraVolumes: objects,
    extraVolumeMounts: objects,
    podSecurityContext: object,
    containerSecurityContext: object,
    serviceAccount: z.strictObject({ create: z.boolean(), name, annotations: stringMap }).partial(),
    rbac: z
      .strictObject({
        create: z.boolean(),
        scope: z.enum(["Cluster", "Namespaces"]),
        aggregateRoles: z.boolean(),
        podGroups: z.boolean(),
        httpRoutes: z.boolean(),
      })
      .partial(),
    podDisruptionBudget: z
      .strictObject({ enabled: z.boolean(), maxUnavailable: z.union([z.int().min(0), z.string().regex(/^\d{1,3}%$/)]) })
      .partial(),
    crds: z.strictObject({ enabled: z.boolean(), keep: z.boolean() }).partial(),
    nats: z
      .strictObject({
        enabled: z.boolean(),
        url: url.regex(/^((nats|tls):\/\/\S+)?$/),
        auth: z.strictObject({ enabled: z.boolean(), existingSecret: name }).partial(),
        tls: z.strictObject({ secretName: name }).partial(),
        image,
        resources,
        ...scheduling,
      })
      .partial(),
    networkPolicy: z.strictObject({ enabled: z.boolean(), apiServerPorts: portList, natsPorts: portList }).partial(),
    page: z
      .strictObject({
        enabled: z.boolean(),
        access: z.enum(pageAccesses),
        tokenSecret: name,
        namespaces: z.array(z.string().min(1).max(63)),
        from: objects,
      })
      .partial(),
    huggingface: z.strictObject({ endpoint: z.string().regex(/^(https?:\/\/\S+)?$/) }).partial(),
    tracing: z.strictObject({ otlpEndpoint: z.string().regex(/^(https?:\/\/\S+)?$/), sampleRatio: ratio }).partial(),
    monitoring: z
      .strictObject({
        serviceMonitor: monitor.partial(),
        podMonitor: monitor.partial(),
        prometheusRule: z
          .strictObject({ enabled: z.boolean(), labels: stringMap, annotations: stringMap, runbookUrl: z.string().max(512) })
          .partial(),
        dashboards: z
          .strictObject({
            enabled: z.boolean(),
            namespace: z.string().max(63),
            label: z.string().max(253),
            labelValue: z.string().max(63),
            folder: z.string().max(128),
            annotations: stringMap,
          })
          .partial(),
      })
      .partial(),
  })
  .partial();

/** JSON Schema draft-07, as Helm reads it. */
export function chartValuesJsonSchema(): object {
  return z.toJSONSchema(chartValuesSchema, { target: "draft-07", io: "input" });
}
