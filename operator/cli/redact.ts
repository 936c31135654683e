// The allow-lists of a support archive (DECISIONS.md 8). Pure.
import { moeDeploymentSpecSchema } from "../../crds/moe-deployment.ts";
import { moeTrainingJobSpecSchema } from "../../crds/moe-training-job.ts";
import { gatewayProcess, workerLifetime, workerProcess } from "../../crds/process.ts";
import { checkerProcess, trainerProcess } from "../../crds/training-process.ts";

/** true: the whole value. A function maps it. A record: these fields, "*" for any. */
type Allow = true | ((value: unknown) => unknown) | { readonly [field: string]: Allow };

const leftOut = "[left out]";

type Tree = Readonly<Record<string, unknown>>;
const isTree = (value: unknown): value is Tree => typeof value === "object" && value !== null && !Array.isArray(value);

function pick(value: unknown, allow: Allow): unknown {
  if (typeof allow === "function") return allow(value);
  if (Array.isArray(value)) return value.map((entry) => pick(entry, allow));
  if (!isTree(value)) return allow === true ? scrubbed(value) : undefined;
  const entries = Object.entries(value).flatMap(([key, inner]) => {
    const rule = allow === true ? true : Object.hasOwn(allow, key) ? allow[key] : allow["*"];
    return rule === undefined ? [] : [[key, pick(inner, rule)] as const];
  });
  return Object.fromEntries(entries);
}

const credentials: readonly (readonly [RegExp, string])[] = [
  [/([a-z][a-z0-9+.-]{0,31}:\/\/)[^\s/"']+@/gi, `$1${leftOut}@`], // to the last @, since a password may contain one
  [/-----BEGIN [A-Z ]+-----[\s\S]*?(?:-----END [A-Z ]+-----|$)/g, leftOut],
  [/\b(bearer|basic)\s+[\w.~+/=-]{6,}/gi, `$1 ${leftOut}`],
  [/\beyJ[\w-]+\.[\w-]+\.[\w-]*/g, leftOut],
  [
    // A quoted value may contain spaces; nested JSON escapes its quotes.
    /((?:password|passwd|secret|token|api[-_ ]?key|access[-_ ]?key|authorization|credential|signature|\bsig)s?\\*["']?\s*[=:]\s*)(?:\\*"(?:[^"\\]|\\.)*"?|\\*'[^']*'?|[^\s"',;&]+)/gi,
    `$1${leftOut}`,
  ],
  [/\b(?:hf_|sk-|AKIA|gh[oprsu]_|github_pat_|glpat-|xox[a-z]-)[\w-]{8,}/g, leftOut],
];

export function scrubbedText(text: string): string {
  return credentials.reduce((left, [pattern, by]) => left.replace(pattern, by), text);
}

function scrubbed(value: unknown): unknown {
  return typeof value === "string" ? scrubbedText(value) : value;
}

const ownKeys = /^(enodia\.dev|app\.kubernetes\.io|kubernetes\.io|topology\.kubernetes\.io|node\.kubernetes\.io|helm\.sh)\//;
const ownMap = (value: unknown): unknown =>
  isTree(value)
    ? Object.fromEntries(Object.entries(value).flatMap(([key, text]) => (ownKeys.test(key) ? [[key, scrubbed(text)]] : [])))
    : undefined;

const metadata: Allow = {
  name: true,
  namespace: true,
  uid: true,
  generation: true,
  resourceVersion: true,
  creationTimestamp: true,
  deletionTimestamp: true,
  labels: ownMap,
  annotations: ownMap,
  ownerReferences: true,
};

/** Variables of our processes; only addresses in them may hold a secret. */
const variables = new Set([
  ...[workerProcess, workerLifetime, gatewayProcess, trainerProcess, checkerProcess].flatMap((rows) =>
    Object.values(rows).map(({ variable }) => variable),
  ),
  ...["NAMESPACE", "INSTALL", "RUNTIME_IMAGE", "TRAINING_IMAGE", "RUNTIME_PULL_POLICY", "NETWORK_POLICIES", "WATCH_NAMESPACES"].map(
    (name) => `ENODIA_${name}`,
  ),
]);

function environment(value: unknown): unknown {
  if (!Array.isArray(value)) return undefined;
  return value.filter(isTree).map(({ name, value: text, valueFrom }) => {
    const known = variables.has(String(name));
    if (text === undefined) return { name, valueFrom: pick(valueFrom, { fieldRef: true, secretKeyRef: true, configMapKeyRef: true }) };
    return { name, value: known ? origin(String(text)) : leftOut };
  });
}

function origin(text: string): string {
  return URL.canParse(text) && text.includes("://") ? `${new URL(text).protocol}//${new URL(text).host}` : scrubbedText(text);
}

const container: Allow = {
  name: true,
  image: true,
  imagePullPolicy: true,
  resources: true,
  ports: true,
  securityContext: true,
  volumeMounts: true,
  env: environment,
};

const podSpec: Allow = {
  nodeName: true,
  nodeSelector: true,
  tolerations: true,
  affinity: true,
  topologySpreadConstraints: true,
  schedulerName: true,
  schedulingGates: true,
  priorityClassName: true,
  runtimeClassName: true,
  serviceAccountName: true,
  terminationGracePeriodSeconds: true,
  securityContext: true,
  hostNetwork: true,
  containers: container,
  initContainers: container,
  volumes: {
    name: true,
    persistentVolumeClaim: true,
    emptyDir: true,
    secret: { secretName: true, optional: true },
    configMap: { name: true, optional: true },
  },
};

const ours = ["runtime", "gateway", "operator"];
function containerStatuses(value: unknown): unknown {
  if (!Array.isArray(value)) return undefined;
  const end: Allow = { reason: true, exitCode: true, signal: true, startedAt: true, finishedAt: true };
  return value.filter(isTree).map((status) => {
    const own = ours.includes(String(status.name));
    const state: Allow = { waiting: true, running: true, terminated: own ? true : end };
    return pick(status, { name: true, image: true, ready: true, started: true, restartCount: true, state, lastState: state });
  });
}

const podTemplate: Allow = { metadata: { labels: ownMap, annotations: ownMap }, spec: podSpec };

/** A pod template may hold anything. */
const specOf =
  ({ shape }: { readonly shape: object }) =>
  (value: unknown): unknown => {
    if (!isTree(value)) return undefined;
    return allowedTemplates(Object.fromEntries(Object.entries(value).filter(([key]) => Object.hasOwn(shape, key))));
  };

function allowedTemplates(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(allowedTemplates);
  if (!isTree(value)) return scrubbed(value);
  const entries = Object.entries(value).map(([key, inner]) => {
    return [key, key === "podTemplate" ? pick(inner, podTemplate) : allowedTemplates(inner)] as const;
  });
  return Object.fromEntries(entries);
}

const allowed: Readonly<Record<string, Allow>> = {
  MoEDeployment: {
    apiVersion: true,
    kind: true,
    metadata,
    spec: specOf(moeDeploymentSpecSchema),
    status: true,
  },
  MoETrainingJob: { apiVersion: true, kind: true, metadata, spec: specOf(moeTrainingJobSpecSchema), status: true },
  ExpertPlacement: { apiVersion: true, kind: true, metadata, spec: true, status: true },
  Pod: {
    metadata,
    spec: podSpec,
    status: {
      phase: true,
      reason: true,
      message: true,
      conditions: true,
      podIP: true,
      startTime: true,
      qosClass: true,
      containerStatuses,
      initContainerStatuses: containerStatuses,
    },
  },
  Deployment: { metadata, spec: { replicas: true, template: podTemplate }, status: true },
  Node: {
    metadata,
    spec: { unschedulable: true, taints: true },
    status: { allocatable: true, capacity: true, conditions: true, nodeInfo: true },
  },
  Event: {
    reason: true,
    note: true,
    type: true,
    action: true,
    eventTime: true,
    series: true,
    regarding: { kind: true, namespace: true, name: true },
  },
  Lease: { metadata, spec: true },
  PersistentVolumeClaim: { metadata, spec: { accessModes: true, resources: true, storageClassName: true }, status: true },
  CustomResourceDefinition: {
    metadata,
    spec: { versions: { name: true, served: true, storage: true } },
    status: { conditions: true, storedVersions: true },
  },
};

export function redacted(object: { readonly kind: string }): unknown {
  const allow = Object.hasOwn(allowed, object.kind) ? allowed[object.kind] : undefined;
  return allow === undefined ? undefined : pick(object, allow);
}

/** Numbers and booleans always pass. */
const textFields = new Set(
  "time level name message requestId traceId reason deployment namespace key controller replica code type state model backend from to kind step signal phase result version stack status trouble recovery part source codec pod".split(
    " ",
  ),
);
const depthMax = 6;

/** Drops texts in unknown fields; lines of other programs are counted. */
export function redactedLine(line: string): string {
  const space = line.indexOf(" ");
  const [at, text] = space < 0 ? ["", line] : [line.slice(0, space), line.slice(space + 1)];
  try {
    const value: unknown = JSON.parse(text);
    if (isTree(value) && typeof value.level === "string") return `${at} ${JSON.stringify(fieldsOf(value, depthMax))}`;
  } catch {
    // Said below.
  }
  return `${at} [a line of ${text.length} characters that is no log line of ours]`;
}

function fieldsOf(value: Tree, depth: number): Tree {
  const entries = Object.entries(value).map(([name, inner]) => [name, fieldOf(name, inner, depth)] as const);
  return Object.fromEntries(entries);
}

function fieldOf(name: string, value: unknown, depth: number): unknown {
  if (typeof value === "number" || typeof value === "boolean" || value === null) return value;
  if (typeof value === "string") return textFields.has(name) ? scrubbedText(value) : leftOut;
  if (depth === 0) return leftOut;
  if (Array.isArray(value)) return value.map((entry) => fieldOf(name, entry, depth - 1));
  return isTree(value) ? fieldsOf(value, depth - 1) : leftOut;
}
