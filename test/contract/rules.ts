// Every CEL rule of the CRDs beside a spec that breaks it: what the API server has to refuse, with which words. The rules are read from the
// manifests, so that one without a case is seen (rules.test.ts); rules.int.test.ts asks the server.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "yaml";

const root = join(import.meta.dirname, "../..");

interface CelRule {
  readonly kind: string;
  /** The schema that has it, such as .spec.model.uri; empty for the object itself. */
  readonly path: string;
  readonly rule: string;
  readonly message: string;
  /** The field that a refusal names, as the server writes it. */
  readonly field: string;
}

interface RuleCase {
  readonly kind: string;
  readonly path: string;
  /** Words of the message, where a schema has several rules. */
  readonly says?: string;
  /** A merge patch of the spec that is well: what breaks the rule. */
  readonly patch: object;
  /** Of rules on changes: a merge patch that makes the object before. */
  readonly before?: object;
  readonly name?: string;
}

type Schema = Readonly<Record<string, any>>;

/** Those of a manifest, in its order. */
export function celRules(plural: string): CelRule[] {
  const crd = parse(readFileSync(join(root, "crds/manifests", `${plural}.yaml`), "utf8"));
  const { kind } = crd.spec.names;
  return crd.spec.versions.flatMap((version: Schema) => rulesIn(version.schema.openAPIV3Schema, "").map((rule) => ({ kind, ...rule })));
}

function rulesIn(schema: Schema, path: string): Omit<CelRule, "kind">[] {
  const own = (schema["x-kubernetes-validations"] ?? []).map(({ rule, message, fieldPath = "" }: Schema) => {
    const field = `${path}${fieldPath}`.slice(1).replaceAll("[]", "[0]");
    return { path, rule, message, field };
  });
  const children = Object.entries<Schema>(schema.properties ?? {}).flatMap(([name, child]) => rulesIn(child, `${path}.${name}`));
  const items = typeof schema.items === "object" ? rulesIn(schema.items, `${path}[]`) : [];
  const values = typeof schema.additionalProperties === "object" ? rulesIn(schema.additionalProperties, `${path}.*`) : [];
  return [...own, ...children, ...items, ...values];
}

/** The rules that a case is for: it should be one. */
export const rulesOfCase = ({ kind, path, says = "" }: RuleCase, rules: readonly CelRule[]): CelRule[] =>
  rules.filter((one) => one.kind === kind && one.path === path && one.message.includes(says));

/** A JSON merge patch (RFC 7386). */
export function merged(target: unknown, patch: unknown): unknown {
  const isObject = (value: unknown): value is Record<string, unknown> =>
    typeof value === "object" && value !== null && !Array.isArray(value);
  if (!isObject(patch)) return patch;
  const out: Record<string, unknown> = isObject(target) ? { ...target } : {};
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete out[key];
    else out[key] = merged(out[key], value);
  }
  return out;
}

/** Specs that break no rule. */
export const wellSpecs: Readonly<Record<string, object>> = {
  MoEDeployment: { model: { uri: "pvc://models/x" }, replicas: 2 },
  MoETrainingJob: {
    model: { uri: "pvc://models/m" },
    data: { uri: "pvc://data/d" },
    steps: 100,
    memoryPerRank: "1Gi",
    output: { uri: "pvc://models/out" },
    suspend: true,
  },
};

const downloaded = { uri: "hf://owner/name", cache: { persistentVolumeClaim: { claimName: "cache" } } };
const scaled = { min: 1, max: 4, metrics: [{ name: "kvUse", target: 80 }] };
const autoscale = (more: object): object => ({ elasticity: { minReplicas: 0, autoscale: { ...scaled, ...more } } });
const named = { metadata: { name: "x" } };
const withoutIt = { spec: { containers: [{ name: "beside" }] } };

const deployment = (path: string, patch: object, more: Omit<RuleCase, "kind" | "path" | "patch"> = {}): RuleCase => ({
  ...{ kind: "MoEDeployment", path, patch },
  ...more,
});
const training = (path: string, patch: object, more: Omit<RuleCase, "kind" | "path" | "patch"> = {}): RuleCase => ({
  ...{ kind: "MoETrainingJob", path, patch },
  ...more,
});
/** A field of a training job that the result depends on. */
const fixed = (field: string, value: unknown, more: object = {}): RuleCase =>
  training(".spec", { [field]: value, ...more }, { says: `${field} cannot change` });

/** Worlds that meet, which take a pod each. */
const met = { replicas: 2, elasticity: { minReplicas: 2, maxReplicas: 2 }, local: { recipe: "fedavg:100", data: ["pvc://models/other"] } };
const born = { model: { init: "Random" }, spawn: { step: 5 } };

export const ruleCases: readonly RuleCase[] = [
  deployment("", {}, { name: "a".repeat(41) }),
  deployment(".spec", { elasticity: { minReplicas: 3 } }, { says: "replicas is below elasticity.minReplicas" }),
  deployment(".spec", { elasticity: { maxReplicas: 1 } }, { says: "replicas is above elasticity.maxReplicas" }),
  deployment(
    ".spec",
    { elasticity: { minReplicas: 1 }, failurePolicy: { minServingReplicas: 2 } },
    { says: "minServingReplicas must not be above elasticity.minReplicas" },
  ),
  deployment(
    ".spec",
    { elasticity: { maxReplicas: 4 }, failurePolicy: { minServingReplicas: 5 } },
    { says: "minServingReplicas must not be above elasticity.maxReplicas" },
  ),
  deployment(".spec", { roles: { prefill: 1, decode: 2 } }, { says: "replicas is below roles.prefill + roles.decode" }),
  deployment(
    ".spec",
    { replicas: 6, roles: { prefill: 1, decode: 4 }, ...autoscale({}) },
    { says: "elasticity.autoscale.max is below roles.prefill + roles.decode" },
  ),
  deployment(".spec", { runtime: { backend: "cuda" } }, { says: "experts.memoryPerRank is required" }),
  deployment(".spec.model", { model: { uri: "hf://owner/name" } }, { says: "cache is required" }),
  deployment(".spec.model", { model: { cache: downloaded.cache } }, { says: "cache is for models that are downloaded" }),
  deployment(".spec.model", { model: { secretRef: { name: "s" } } }, { says: "secretRef is for models that are downloaded" }),
  deployment(".spec.model.uri", { model: { uri: "ftp://a/b" } }),
  deployment(".spec.model.cache", { model: { uri: "hf://owner/name", cache: {} } }),
  deployment(".spec.model.cache.ephemeral.sizeLimit", { model: { uri: "hf://owner/name", cache: { ephemeral: { sizeLimit: "0" } } } }),
  deployment(".spec.elasticity", { elasticity: { minReplicas: 3, maxReplicas: 2 } }, { says: "minReplicas must not be above maxReplicas" }),
  deployment(
    ".spec.elasticity",
    { elasticity: { minReplicas: 2, autoscale: scaled } },
    { says: "autoscale.min and autoscale.max must lie within" },
  ),
  deployment(
    ".spec",
    { ...autoscale({}), failurePolicy: { minServingReplicas: 2 } },
    { says: "minServingReplicas must not be above elasticity.autoscale.min" },
  ),
  deployment(".spec.elasticity.autoscale", autoscale({ min: 5 })),
  deployment(
    ".spec.elasticity",
    { elasticity: { minReplicas: 1, autoscale: { ...scaled, scaleToZero: {} } } },
    { says: "autoscale.scaleToZero sets replicas to 0" },
  ),
  deployment(".spec.elasticity.autoscale.scaleToZero", autoscale({ scaleToZero: { holdTimeout: "11m" } })),
  deployment(".spec.elasticity.autoscale.scaleToZero.idleAfter", autoscale({ scaleToZero: { idleAfter: "0s" } })),
  deployment(".spec.elasticity.autoscale.scaleToZero.holdTimeout", autoscale({ scaleToZero: { holdTimeout: "0s" } })),
  deployment(".spec.elasticity.autoscale.metrics[]", autoscale({ metrics: [{ name: "kvUse", target: 101 }] })),
  deployment(".spec.elasticity.autoscale.behaviour.scaleUp", autoscale({ behaviour: { scaleUp: { stabilizationWindow: "2h" } } })),
  deployment(".spec.elasticity.autoscale.behaviour.scaleDown", autoscale({ behaviour: { scaleDown: { stabilizationWindow: "2h" } } })),
  deployment(".spec.elasticity.operationTimeout", { elasticity: { operationTimeout: "0s" } }),
  deployment(".spec.experts.memoryPerRank", { experts: { memoryPerRank: "0Mi" } }),
  deployment(".spec.runtime.kvPool", { runtime: { kvPool: "0" } }),
  deployment(".spec.runtime.deviceExpertMemory", { runtime: { deviceExpertMemory: "0" } }),
  deployment(".spec.runtime.deviceDenseMemory", { runtime: { deviceDenseMemory: "0" } }),
  deployment(".spec.runtime.kvOffload.memory", { runtime: { kvOffload: { memory: "0" } } }),
  deployment(".spec.runtime.kvOffload.disk", { runtime: { kvOffload: { memory: "1Gi", disk: "0Gi" } } }),
  deployment(".spec.runtime.decodeWait", { runtime: { decodeWait: "0ms" } }),
  deployment(".spec.runtimeImage", { runtimeImage: { rollout: "Auto", image: "enodia/runtime:1" } }),
  deployment(".spec.rolloutStrategy", { rolloutStrategy: { maxSurge: 0, maxUnavailable: 0 } }),
  deployment(".spec.rolloutStrategy.maxSurge", { rolloutStrategy: { maxSurge: 65 } }),
  deployment(".spec.rolloutStrategy.maxUnavailable", { rolloutStrategy: { maxUnavailable: -1 } }),
  deployment(".spec.rolloutStrategy.progressDeadline", { rolloutStrategy: { progressDeadline: "0s" } }),
  deployment(".spec.rebalancing.trigger.imbalancePercent", { rebalancing: { trigger: { imbalancePercent: 100 } } }),
  deployment(".spec.rebalancing.trigger.window", { rebalancing: { trigger: { window: "900ms" } } }),
  deployment(".spec.rebalancing.budget.maxBytes", { rebalancing: { budget: { maxBytes: 0 } } }),
  deployment(".spec.rebalancing.budget.maxTransferBytesPerSecond", { rebalancing: { budget: { maxTransferBytesPerSecond: "0Ki" } } }),
  deployment(".spec.scheduling.topology.key", { scheduling: { topology: { key: "a rack/of/nodes", mode: "Pack" } } }),
  deployment(".spec.telemetry.staleAfter", { telemetry: { staleAfter: "5s" } }),
  deployment(".spec.podTemplate.metadata", { podTemplate: named }),
  deployment(".spec.podTemplate.spec.containers", { podTemplate: withoutIt }),
  deployment(
    ".spec.gateway",
    { gateway: { replicas: 1, autoscale: { maxReplicas: 3 } } },
    { says: "replicas and autoscale exclude each other" },
  ),
  deployment(".spec.gateway", { gateway: { clients: [{ name: "batch" }] } }, { says: "clients are known by their keys" }),
  deployment(".spec.gateway", { gateway: { prefixIsolation: true } }, { says: "prefixIsolation tells callers apart" }),
  deployment(".spec.gateway.autoscale", { gateway: { autoscale: { minReplicas: 4, maxReplicas: 3 } } }),
  deployment(".spec.gateway.cors.allowOrigins", { gateway: { cors: { allowOrigins: ["https://app.example.com/x"] } } }),
  deployment(".spec.gateway.httpRoute.timeouts", {
    gateway: { httpRoute: { parentRefs: [{ name: "public" }], timeouts: { request: "1m", backendRequest: "2m" } } },
  }),
  deployment(".spec.gateway.podTemplate.metadata", { gateway: { podTemplate: named } }),
  deployment(".spec.gateway.podTemplate.spec.containers", { gateway: { podTemplate: withoutIt } }),

  training("", {}, { name: "default" }),
  training(".spec", { replicas: 2 }, { says: "replicas must be from elasticity.minReplicas" }),
  training(".spec", { batch: { sequences: 33 } }, { says: "batch.sequences must be a multiple" }),
  training(".spec", { elasticity: { minReplicas: 2 } }, { says: "elasticity.minReplicas must not be above elasticity.maxReplicas" }),
  training(".spec", { local: { recipe: "fedavg:100" } }, { says: "local.recipe and local.data go together" }),
  training(".spec", merged(met, { elasticity: { minReplicas: 1 } }) as object, {
    says: "elasticity.minReplicas must be a pod for each world",
  }),
  training(".spec", { schedule: { warmupSteps: 101 } }, { says: "schedule.warmupSteps must not be above steps" }),
  training(".spec", merged(born, { spawn: { step: 100 } }) as object, { says: "spawn.step must be below steps" }),
  training(".spec", { spawn: { step: 5 } }, { says: "spawn begins with one expert of random weights" }),
  training(".spec", { ...met, ...born }, { says: "set spawn or local, and not both" }),
  training(".spec", { spawn: { mask: "0.25" } }, { says: "spawn.step and spawn.mask cannot change", before: born }),
  fixed("model", { init: "Random" }),
  fixed("data", { sequenceLength: 128 }),
  fixed("local", met.local, { replicas: met.replicas, elasticity: met.elasticity }),
  fixed("steps", 200),
  fixed("batch", { sequences: 32 }),
  fixed("seed", 2),
  fixed("optimizer", { beta1: "0.8" }),
  fixed("schedule", { floor: "0.2" }),
  fixed("balance", "switch:0.01"),
  fixed("adapters", "mixlora:8:2:16"),
  fixed("gate", "dense-to-sparse:4:0.05:200"),
  fixed("threadsPerRank", 2),
  fixed("output", { codecs: ["f16"] }),
  training(".spec.model.uri", { model: { uri: "s3://a/b" } }),
  training(".spec.data.uri", { data: { uri: "pvc://data/../etc" } }),
  training(".spec.data.validation", { data: { validation: "/data" } }),
  training(".spec.local.data[]", merged(met, { local: { data: ["other"] } }) as object),
  training(".spec.batch.microBatches", { batch: { microBatches: 12, sequences: 24 } }),
  training(".spec.fssdp.memorySlots", { fssdp: { memorySlots: 5000 } }),
  training(".spec.fssdp.microBatchesAtOnce", { fssdp: { microBatchesAtOnce: 5000 } }),
  training(".spec.fssdp.overlapDegree", { fssdp: { overlapDegree: 5000 } }),
  training(".spec.optimizer.memory", { optimizer: { memory: "0" } }),
  training(".spec.memoryPerRank", { memoryPerRank: "0Gi" }),
  training(".spec.failurePolicy.stepTimeout", { failurePolicy: { stepTimeout: "11m" } }),
  training(".spec.output.uri", { output: { uri: "hf://a/b" } }),
  training(".spec.podTemplate.metadata", { podTemplate: named }),
  training(".spec.podTemplate.spec.containers", { podTemplate: withoutIt }),
];
