// The kubectl steps of `enodia model push`, and the MoEDeployment that serves the store. Pure.
import { basename } from "node:path";
import { AppError } from "../../crds/common.ts";

export interface PushOptions {
  /** The store's folder; it has the same name in the claim. */
  readonly dir: string;
  readonly claim: string;
  readonly access: string;
  readonly image: string;
  readonly replicas: number;
  /** Namespace, context and kubeconfig flags. */
  readonly kubectl: readonly string[];
}

export interface StoreSizes {
  readonly codec: string;
  /** The sum over all files. */
  readonly bytes: number;
  readonly expertBytes: number;
  readonly largestExpertBytes: number;
}

export interface KubectlStep {
  readonly say: string;
  readonly argv: readonly string[];
  /** Standard input. */
  readonly input?: string;
  /** The step is skipped where this call succeeds. */
  readonly unless?: readonly string[];
  /** Runs at the end if this step ran. */
  readonly undo?: Pick<KubectlStep, "say" | "argv">;
}

const mebi = 2 ** 20;
/** Factor for free space of the claim and memory of a rank. */
const spare = 1.1;
const mebibytes = (bytes: number): string => `${Math.max(1, Math.ceil((bytes * spare) / mebi))}Mi`;

/** Lower case, digits and dashes. */
export function deploymentName(dir: string): string {
  const name = basename(dir)
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/^-+|-+$/g, "")
    .slice(0, 40)
    .replace(/-+$/, "");
  if (name !== "" && name !== "default") return name;
  throw new AppError(`${dir}: no name for a deployment can be made of this folder's; rename it`, { code: "BadOption" });
}

/** Other characters would need quoting in a URI or shell. */
function folderName(dir: string): string {
  const name = basename(dir);
  if (/^[A-Za-z0-9][\w.-]*$/.test(name)) return name;
  throw new AppError(`${dir}: rename the folder to letters, digits, dots and dashes; it has this name in the claim too`, {
    code: "BadOption",
  });
}

function claimManifest({ claim, access }: PushOptions, { bytes }: StoreSizes): object {
  const spec = { accessModes: [access], resources: { requests: { storage: mebibytes(bytes) } } };
  return { apiVersion: "v1", kind: "PersistentVolumeClaim", metadata: { name: claim }, spec };
}

/** Runs as user 65532, which reads the claim later. */
function loaderManifest(pod: string, { claim, image }: PushOptions): object {
  const securityContext = {
    runAsNonRoot: true,
    runAsUser: 65532,
    runAsGroup: 65532,
    fsGroup: 65532,
    seccompProfile: { type: "RuntimeDefault" },
  };
  const shell = {
    name: "shell",
    image,
    command: ["sleep", "86400"],
    securityContext: { allowPrivilegeEscalation: false, capabilities: { drop: ["ALL"] } },
    volumeMounts: [{ name: "models", mountPath: "/models" }],
  };
  const spec = { securityContext, containers: [shell], volumes: [{ name: "models", persistentVolumeClaim: { claimName: claim } }] };
  return { apiVersion: "v1", kind: "Pod", metadata: { name: pod }, spec };
}

export function pushSteps(options: PushOptions, sizes: StoreSizes): readonly KubectlStep[] {
  const { claim, dir, kubectl } = options;
  const folder = folderName(dir);
  const pod = `load-${deploymentName(dir)}`;
  const call = (...argv: readonly string[]): readonly string[] => [...kubectl, ...argv];
  const create = call("create", "-f", "-");
  return [
    {
      say: `claim ${claim}`,
      argv: create,
      input: JSON.stringify(claimManifest(options, sizes)),
      unless: call("get", "persistentvolumeclaim", claim),
    },
    {
      say: `pod ${pod}, which mounts it`,
      argv: create,
      input: JSON.stringify(loaderManifest(pod, options)),
      undo: { say: `removing pod ${pod}`, argv: call("delete", "pod", pod, "--ignore-not-found", "--wait=false") },
    },
    { say: "waiting for it", argv: call("wait", `pod/${pod}`, "--for=condition=Ready", "--timeout=5m") },
    {
      say: `copying ${(sizes.bytes / 1e9).toFixed(2)} GB to ${claim}/${folder}`,
      argv: call("cp", dir, `${pod}:/models/`, "--retries=10"),
    },
  ];
}

/** As YAML: each rank has its part of the experts and one staging slot. */
export function deploymentText({ dir, claim, replicas }: PushOptions, { codec, expertBytes, largestExpertBytes }: StoreSizes): string {
  const memory = expertBytes / replicas + 2 * largestExpertBytes;
  const experts = expertBytes > 0 ? `  experts:\n    memoryPerRank: ${mebibytes(memory)}\n` : "";
  return `apiVersion: enodia.dev/v1alpha1
kind: MoEDeployment
metadata:
  name: ${deploymentName(dir)}
spec:
  model:
    uri: pvc://${claim}/${folderName(dir)}
  replicas: ${replicas}
  runtime:
    expertCodec: ${codec}
${experts}`;
}
