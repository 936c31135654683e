// The steps of `enodia model push` for kubectl, and the MoEDeployment that serves the store. Pure.
import { basename } from "node:path";
import { AppError } from "../../crds/common.ts";

export interface PushOptions {
  /** The store's folder, whose name it has in the claim too. */
  readonly dir: string;
  readonly claim: string;
  readonly access: string;
  readonly image: string;
  readonly replicas: number;
  /** Flags for every call of kubectl: namespace, context, kubeconfig. */
  readonly kubectl: readonly string[];
}

/** What a store says of itself. */
export interface StoreSizes {
  readonly codec: string;
  /** Bytes of all files. */
  readonly bytes: number;
  readonly expertBytes: number;
  readonly largestExpertBytes: number;
}

export interface KubectlStep {
  /** Said to the user before it runs. */
  readonly say: string;
  readonly argv: readonly string[];
  /** Given on standard input. */
  readonly input?: string;
  /** It is left out where this call succeeds. */
  readonly unless?: readonly string[];
  /** Runs at the end if this step was made. */
  readonly undo?: Pick<KubectlStep, "say" | "argv">;
}

const mebi = 2 ** 20;
/** Spare part of a claim, and of a rank's memory. */
const spare = 1.1;
const mebibytes = (bytes: number): string => `${Math.max(1, Math.ceil((bytes * spare) / mebi))}Mi`;

/** Names that Kubernetes takes for the deployment: lower case, digits and dashes. */
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

/** Other characters would have to be quoted in a URI and for a shell. */
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

/** As the pods of a deployment read the claim: user 65532. */
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

/** The calls that bring the store into the claim. */
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

/** The deployment as YAML: each rank has its part of the experts and a slot for one more. */
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
