// spec.podTemplate merged into a rendered worker pod. What belongs to the operator is refused, never dropped. Pure.
import type { PodTemplate } from "../../../crds/moe-deployment.ts";
import type { Refusal } from "../core/snapshot.ts";

type Fields = Record<string, unknown>;
export interface PodShape {
  labels: Record<string, string>;
  annotations: Record<string, string>;
  spec: Fields & { containers: Fields[]; volumes: Fields[] };
}

export const runtimeContainer = "runtime";
const ownPrefix = "enodia.dev/";
/** Fixed by what the pods are: values other than these are refused. */
const fixed: Readonly<Record<string, unknown>> = {
  restartPolicy: "Always",
  automountServiceAccountToken: false,
  hostNetwork: false,
  hostPID: false,
  hostIPC: false,
};
const operatorsPodFields = ["hostname", "subdomain", "setHostnameAsFQDN"];
const operatorsContainerFields = ["command", "args", "workingDir"];
/** Variables of the runtime that the operator leaves to the template: those of workers, and those that go to the gateway instead. */
const workerVariables = ["ENODIA_THREADS"];
const gatewayVariables = ["ENODIA_QUEUE_REQUESTS_MAX"];
const mergedLists: Readonly<Record<string, (item: Fields) => unknown>> = {
  volumeMounts: (item) => item.mountPath,
  ports: (item) => item.containerPort,
};

export interface Merged {
  readonly pod: PodShape;
  readonly refusals: readonly Refusal[];
}

export function mergePodTemplate(base: PodShape, template: PodTemplate | undefined): Merged {
  if (!template) return { pod: base, refusals: [] };
  const problems: string[] = [];
  const { metadata, spec, ...others } = template;
  for (const key of Object.keys(others)) problems.push(`podTemplate.${key} is not a field of a pod template`);
  const pod: PodShape = {
    labels: keys(base.labels, metadata?.labels, "podTemplate.metadata.labels", problems),
    annotations: keys(base.annotations, metadata?.annotations, "podTemplate.metadata.annotations", problems),
    spec: mergeSpec(base.spec, (spec ?? {}) as Fields, problems),
  };
  for (const key of Object.keys(metadata ?? {})) {
    if (key !== "labels" && key !== "annotations") problems.push(`podTemplate.metadata.${key} is the operator's`);
  }
  return { pod, refusals: problems.map((message) => ({ reason: "FieldNotSupported", message: `spec.${message}` })) };
}

function keys(
  base: Record<string, string>,
  more: Record<string, string> | undefined,
  field: string,
  problems: string[],
): Record<string, string> {
  for (const key of Object.keys(more ?? {})) {
    if (key.startsWith(ownPrefix) || key in base) problems.push(`${field}: "${key}" is the operator's; choose another key`);
  }
  return { ...more, ...base };
}

function mergeSpec(base: PodShape["spec"], template: Fields, problems: string[]): PodShape["spec"] {
  const out: PodShape["spec"] = { ...base };
  for (const [key, value] of Object.entries(template)) {
    if (key in fixed && value !== fixed[key])
      problems.push(`podTemplate.spec.${key} must be ${String(fixed[key])}: runtime pods have no other form`);
    else if (operatorsPodFields.includes(key)) problems.push(`podTemplate.spec.${key} is the operator's`);
    else if (key === "containers") out.containers = containers(base.containers, value as Fields[], problems);
    else if (key === "volumes")
      out.volumes = append(base.volumes, value as Fields[], (item) => item.name, "podTemplate.spec.volumes", problems);
    else if (key === "securityContext") out.securityContext = { ...(base.securityContext as Fields), ...(value as Fields) };
    else out[key] = value;
  }
  return out;
}

function containers(base: Fields[], template: Fields[], problems: string[]): Fields[] {
  const own = template.find((container) => container.name === runtimeContainer);
  const merged = base.map((container) =>
    own && container.name === runtimeContainer ? mergeContainer(container, own, problems) : container,
  );
  return [...merged, ...template.filter((container) => container !== own)];
}

function mergeContainer(base: Fields, template: Fields, problems: string[]): Fields {
  const field = `podTemplate.spec.containers[${runtimeContainer}]`;
  const out: Fields = { ...base };
  for (const [key, value] of Object.entries(template)) {
    const identity = mergedLists[key];
    if (operatorsContainerFields.includes(key)) problems.push(`${field}.${key} is the operator's`);
    else if (key === "env") out.env = appendEnv((base.env as Fields[] | undefined) ?? [], value as Fields[], `${field}.env`, problems);
    else if (identity)
      out[key] = append((base[key] as Fields[] | undefined) ?? [], value as Fields[], identity, `${field}.${key}`, problems);
    else if (key === "securityContext") out.securityContext = { ...(base.securityContext as Fields), ...(value as Fields) };
    else out[key] = value;
  }
  return out;
}

function append(base: Fields[], more: Fields[], identity: (item: Fields) => unknown, field: string, problems: string[]): Fields[] {
  const taken = new Set(base.map(identity));
  for (const item of more) if (taken.has(identity(item))) problems.push(`${field}: "${String(identity(item))}" is the operator's`);
  return [...base, ...more.filter((item) => !taken.has(identity(item)))];
}

function appendEnv(base: Fields[], more: Fields[], field: string, problems: string[]): Fields[] {
  const left = more.filter(({ name }) => !gatewayVariables.includes(String(name)));
  const open = left.filter(({ name }) => !String(name).startsWith("ENODIA_") || workerVariables.includes(String(name)));
  for (const item of left) if (!open.includes(item)) problems.push(`${field}: "${String(item.name)}" is the operator's`);
  return append(base, open, (item) => item.name, field, problems);
}

/** The container named runtime: gateways run the same build as the workers. */
export function templateRuntime(template: PodTemplate | undefined): Fields | undefined {
  return template?.spec?.containers?.find((container) => container.name === runtimeContainer);
}

/** What that container's env holds for the gateway. */
export function templateGatewayEnv(template: PodTemplate | undefined): Fields[] {
  const env = (templateRuntime(template)?.env as Fields[] | undefined) ?? [];
  return env.filter(({ name }) => gatewayVariables.includes(String(name)));
}
