// The hash by which a worker or gateway pod is outdated: the owner's fields for that kind of pod, and the image. How an operator renders
// pods is not in it; defaults count as absent. Pure.
import { createHash } from "node:crypto";
import { type MoEDeployment, type MoEDeploymentSpec, moeDeploymentSpecSchema, type PodTemplate } from "../../../crds/moe-deployment.ts";
import { defaultOversubscription } from "../../../crds/names.ts";
import {
  gatewayKind,
  mergePodTemplate,
  type PodShape,
  passedOnEnv,
  type TemplateKind,
  templateContainer,
  workerKind,
} from "../../pods/pod-template.ts";

const hashChars = 16;
/** kvPool once had a default, which objects may still have: no pod is replaced for that. */
const defaults = moeDeploymentSpecSchema.parse({ model: { uri: "pvc://claim/folder" }, runtime: { kvPool: "256Mi" } });

/** `image`: where the template names none; `seeded`: it mounts no model. */
export function workerHash({ metadata, spec }: MoEDeployment, image: string, seeded = false): string {
  const fields = without(workerFields(spec), workerFields(defaults));
  return hash(metadata.uid, seeded ? [fields, "seeded"] : fields, ofTemplate(spec.podTemplate, workerKind, image));
}

export function gatewayHash({ metadata, spec }: MoEDeployment, image: string): string {
  const { podTemplate, gateway } = spec;
  // Gateways run the workers' build.
  const { image: build = image, imagePullPolicy } = templateContainer(podTemplate, workerKind) ?? {};
  const taken = { imagePullPolicy, pull: podTemplate?.spec?.imagePullSecrets, env: passedOnEnv(podTemplate, gateway.podTemplate) };
  const own = ofTemplate(gateway.podTemplate, gatewayKind, build);
  return hash(metadata.uid, without(gatewayFields(spec), gatewayFields(defaults)), [taken, own]);
}

/** Fields that pods depend on, without tokens and paths to a store. */
const modelFields = ({ uri, servedName, cache }: MoEDeploymentSpec["model"]): object => ({
  uri,
  servedName,
  claim: cache?.persistentVolumeClaim?.claimName,
  ephemeral: cache?.ephemeral === undefined ? undefined : true,
});
const workerFields = ({ model, experts, runtime, rebalancing, telemetry, scheduling }: MoEDeploymentSpec): object => {
  const { memoryPerRank, oversubscription, minGatePercent, prefetch } = experts;
  const { kvPool = "Auto" } = runtime;
  return {
    model: modelFields(model),
    runtime: { ...runtime, kvPool },
    memoryPerRank,
    oversubscription,
    minGatePercent,
    prefetch: oversubscription === defaultOversubscription ? undefined : prefetch,
    window: rebalancing.trigger.window,
    nats: telemetry.nats,
    scheduling,
  };
};
const gatewayFields = ({ model, runtime, gateway }: MoEDeploymentSpec): object => ({
  model: modelFields(model),
  maxContext: runtime.maxContext,
  apiKeySecretRef: gateway.apiKeySecretRef,
  jwt: gateway.jwt,
  tls: gateway.tls,
  cors: gateway.cors,
  clients: gateway.clients,
  unknownFields: gateway.unknownFields,
  routing: gateway.routing,
  prefixIsolation: gateway.prefixIsolation,
});

function ofTemplate(template: PodTemplate | undefined, kind: TemplateKind, image: unknown): PodShape {
  const container = { name: kind.container, image, env: [], volumeMounts: [], ports: [], securityContext: {} };
  const bare: PodShape = { labels: {}, annotations: {}, spec: { containers: [container], volumes: [], securityContext: {} } };
  return mergePodTemplate(bare, template, kind).pod;
}

/** The uid is included: pods obey only the object with their uid. */
function hash(uid: string, fields: unknown, template: unknown): string {
  return createHash("sha256")
    .update(JSON.stringify([uid, fields, template], inOrder))
    .digest("hex")
    .slice(0, hashChars);
}

type Fields = Readonly<Record<string, unknown>>;
const isObject = (value: unknown): value is Fields => typeof value === "object" && value !== null && !Array.isArray(value);

const inOrder = (_key: string, value: unknown): unknown =>
  isObject(value) ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1))) : value;

/** The value without defaults; undefined when nothing is left. */
function without(value: unknown, standard: unknown): unknown {
  if (!isObject(value)) return value === standard ? undefined : value;
  const below = isObject(standard) ? standard : {};
  const left = Object.entries(value).flatMap(([key, field]) => {
    const kept = without(field, below[key]);
    return kept === undefined ? [] : [[key, kept] as const];
  });
  return left.length === 0 ? undefined : Object.fromEntries(left);
}
