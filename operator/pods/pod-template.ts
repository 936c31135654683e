// Merges spec.podTemplate and spec.gateway.podTemplate into rendered pods. A field that belongs to the operator is refused, never dropped.
// Pure.

import type { PodTemplate } from "../../crds/moe-deployment.ts";
import { gatewayProcess, workerProcess } from "../../crds/process.ts";
import { variablesLeft } from "../../crds/variables.ts";
import type { Refusal } from "../kube/refusal-text.ts";

type Fields = Record<string, unknown>;
export interface PodShape {
  labels: Record<string, string>;
  annotations: Record<string, string>;
  spec: Fields & { containers: Fields[]; volumes: Fields[] };
}

const ownPrefix = "enodia.dev/";
const fixed: Readonly<Record<string, unknown>> = {
  automountServiceAccountToken: false,
  hostNetwork: false,
  hostPID: false,
  hostIPC: false,
};
const operatorsPodFields = ["hostname", "subdomain", "setHostnameAsFQDN"];
const operatorsContainerFields = ["command", "args", "workingDir"];
const mergedLists: Readonly<Record<string, (item: Fields) => unknown>> = {
  volumeMounts: (item) => item.mountPath,
  ports: (item) => item.containerPort,
};

export interface TemplateKind {
  readonly field: "podTemplate" | "gateway.podTemplate";
  /** The runtime process; the template may add containers. */
  readonly container: "runtime" | "gateway";
  /** Variables that the template may set. */
  readonly open: readonly string[];
  /** Variables of the template that go to the other kind of pod. */
  readonly passedOn: readonly string[];
  readonly restartPolicy: "Always" | "Never";
  /** Fields of the container that only these pods fix, each with the remedy. */
  readonly fixed: Readonly<Record<string, string>>;
}
const gatewayVariables = variablesLeft(gatewayProcess);
export const workerKind: TemplateKind = {
  field: "podTemplate",
  container: "runtime",
  open: variablesLeft(workerProcess),
  passedOn: gatewayVariables,
  restartPolicy: "Always",
  fixed: {},
};
export const gatewayKind: TemplateKind = {
  field: "gateway.podTemplate",
  container: "gateway",
  open: gatewayVariables,
  passedOn: [],
  restartPolicy: "Always",
  fixed: {},
};

export interface Merged {
  readonly pod: PodShape;
  readonly refusals: readonly Refusal[];
}

/** The status shows all problems at once. */
interface Merge extends TemplateKind {
  readonly problems: string[];
}

export function mergePodTemplate(base: PodShape, template: PodTemplate | undefined, kind: TemplateKind): Merged {
  if (!template) return { pod: base, refusals: [] };
  const merge: Merge = { ...kind, problems: [] };
  const { field, problems } = merge;
  const { metadata, spec, ...others } = template;
  for (const key of Object.keys(others)) problems.push(`${field}.${key} is not a field of a pod template`);
  const pod: PodShape = {
    labels: keys(merge, base.labels, metadata?.labels, `${field}.metadata.labels`),
    annotations: keys(merge, base.annotations, metadata?.annotations, `${field}.metadata.annotations`),
    spec: mergeSpec(merge, base.spec, (spec ?? {}) as Fields),
  };
  for (const key of Object.keys(metadata ?? {})) {
    if (key !== "labels" && key !== "annotations") problems.push(`${field}.metadata.${key} is the operator's`);
  }
  return { pod, refusals: problems.map((message) => ({ reason: "FieldNotSupported", message: `spec.${message}` })) };
}

function keys(
  { problems }: Merge,
  base: Record<string, string>,
  more: Record<string, string> | undefined,
  field: string,
): Record<string, string> {
  for (const key of Object.keys(more ?? {})) {
    if (key.startsWith(ownPrefix) || key in base) problems.push(`${field}: "${key}" is the operator's; choose another key`);
  }
  return { ...more, ...base };
}

function mergeSpec(merge: Merge, base: PodShape["spec"], template: Fields): PodShape["spec"] {
  const out: PodShape["spec"] = { ...base };
  const must: Fields = { ...fixed, restartPolicy: merge.restartPolicy };
  for (const [key, value] of Object.entries(template)) {
    const field = `${merge.field}.spec.${key}`;
    if (key in must && value !== must[key]) merge.problems.push(`${field} must be ${String(must[key])}: runtime pods have no other form`);
    else if (operatorsPodFields.includes(key)) merge.problems.push(`${field} is the operator's`);
    else if (key === "containers") out.containers = containers(merge, base.containers, listOf(merge, value, field));
    else if (key === "volumes") out.volumes = append(merge, base.volumes, { more: listOf(merge, value, field), field });
    // The list stays as it is without one of ours, since hashes of revisions include it.
    else if (key === "tolerations" && base.tolerations !== undefined)
      out.tolerations = tolerations(base.tolerations, listOf(merge, value, field));
    else if (key === "securityContext") out.securityContext = { ...(base.securityContext as Fields), ...(value as Fields) };
    else out[key] = value;
  }
  return out;
}

/** Of two tolerations for one taint Kubernetes takes the shorter, so that ours stand only for taints that the template does not name. */
function tolerations(base: unknown, more: Fields[]): Fields[] {
  const said = (taint: Fields) => more.some(({ key, effect }) => (!key || key === taint.key) && (!effect || effect === taint.effect));
  return [...(asList(base) ?? []).filter((one) => !said(one)), ...more];
}

function containers(merge: Merge, base: Fields[], template: Fields[]): Fields[] {
  const own = template.find((container) => container.name === merge.container);
  const merged = base.map((container) => (own && container.name === merge.container ? mergeContainer(merge, container, own) : container));
  return [...merged, ...template.filter((container) => container !== own)];
}

function mergeContainer(merge: Merge, base: Fields, template: Fields): Fields {
  const out: Fields = { ...base };
  for (const [key, value] of Object.entries(template)) {
    const field = `${merge.field}.spec.containers[${merge.container}].${key}`;
    const identity = mergedLists[key];
    const before = () => (base[key] as Fields[] | undefined) ?? [];
    if (operatorsContainerFields.includes(key)) merge.problems.push(`${field} is the operator's`);
    else if (merge.fixed[key] !== undefined) merge.problems.push(`${field} is the operator's: ${merge.fixed[key]}`);
    else if (key === "env") out.env = appendEnv(merge, before(), listOf(merge, value, field), field);
    else if (identity) out[key] = append(merge, before(), { more: listOf(merge, value, field), field, identity });
    else if (key === "securityContext") out.securityContext = { ...(base.securityContext as Fields), ...(value as Fields) };
    else out[key] = value;
  }
  return out;
}

interface Addition {
  readonly more: Fields[];
  readonly field: string;
  /** Two items with one identity are the same; the default is their name. */
  readonly identity?: (item: Fields) => unknown;
}

function append(merge: Merge, base: Fields[], { more, field, identity = (item) => item.name }: Addition): Fields[] {
  const taken = new Set(base.map(identity));
  for (const item of more) if (taken.has(identity(item))) merge.problems.push(`${field}: "${String(identity(item))}" is the operator's`);
  return [...base, ...more.filter((item) => !taken.has(identity(item)))];
}

function appendEnv(merge: Merge, base: Fields[], more: Fields[], field: string): Fields[] {
  const left = more.filter(({ name }) => !merge.passedOn.includes(String(name)));
  const open = left.filter(({ name }) => !String(name).startsWith("ENODIA_") || merge.open.includes(String(name)));
  for (const item of left) if (!open.includes(item)) merge.problems.push(`${field}: "${String(item.name)}" is the operator's`);
  return append(merge, base, { more: open, field });
}

/** Null is an empty list, as in Kubernetes; the API server checks nothing below spec, so that anything else is refused here. */
function listOf({ problems }: Merge, value: unknown, field: string): Fields[] {
  const list = asList(value);
  if (!list) problems.push(`${field} must be a list of objects`);
  return list ?? [];
}

function asList(value: unknown): Fields[] | undefined {
  if (value === undefined || value === null) return [];
  return Array.isArray(value) && value.every((item) => typeof item === "object" && item !== null) ? value : undefined;
}

export function templateContainer(template: PodTemplate | undefined, { container }: TemplateKind): Fields | undefined {
  return template?.spec?.containers?.find(({ name }) => name === container);
}

/** Gateway variables of the workers' template that the gateway's own does not set. */
export function passedOnEnv(workers: PodTemplate | undefined, gateway: PodTemplate | undefined): Fields[] {
  const envOf = (template: PodTemplate | undefined, kind: TemplateKind) => asList(templateContainer(template, kind)?.env) ?? [];
  const own = new Set(envOf(gateway, gatewayKind).map(({ name }) => name));
  return envOf(workers, workerKind).filter(({ name }) => workerKind.passedOn.includes(String(name)) && !own.has(name));
}
