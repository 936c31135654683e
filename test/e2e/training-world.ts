// The ground that e2e files of training share: a namespace with a folder that all nodes and the test see, with a small model and token
// data in it, jobs that train on them, and looks at how they stand.
import { createHash } from "node:crypto";
import { chmodSync, cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { kubectlOf, type Target } from "../kit/deployment/product.ts";
import { condition, type Kubectl, type KubeObject } from "../kit/kube/kubectl.ts";
import { until } from "../kit/processes/process.ts";
import { tinyModel, writeCorpus } from "../kit/training/training.ts";
import { openWorld } from "./world.ts";

export interface TrainingObject {
  readonly spec: Readonly<Record<string, unknown>>;
  readonly [field: string]: unknown;
}

/** The ranks of a job's world; those that leave it are not among them. */
interface RanksOfWorld {
  readonly epoch: number;
  readonly ranks: readonly { readonly rank: number; readonly uid: string; readonly pod: string; readonly node: string }[];
}

export const stepOf = (moet: KubeObject): number => Number(moet.status?.step ?? 0);
export const worldIn = (moet: KubeObject): RanksOfWorld | undefined =>
  (moet.status as { readonly world?: RanksOfWorld } | undefined)?.world;
/** All ranks that are wanted train. */
export const isTraining = (moet: KubeObject): boolean => condition(moet, "Running")?.reason === "Training";

export interface TrainingWorld {
  readonly target: Target;
  readonly kubectl: Kubectl;
  /** As the test sees it. */
  readonly folder: string;
  job(name: string, spec: object): TrainingObject;
  /** Those that train. */
  pods(name: string): Promise<readonly KubeObject[]>;
  /** None is left, of those that check either. */
  podsGone(name: string): Promise<true>;
  complete(name: string, timeoutMs?: number): Promise<KubeObject>;
  /** Of the model that a job ended in. */
  digest(name: string): string;
  /** Of each world that a pod of the job was in: the step that it went on from, and how many that the pod had made were made again. */
  beginsOf(name: string, uid: string): Promise<{ readonly step: number; readonly repeats: number }[]>;
  close(): Promise<void>;
}

function storage(namespace: string, folder: string): readonly object[] {
  const [size, storageClassName, accessModes] = [{ storage: "1Gi" }, "", ["ReadWriteMany"]];
  const claim = { kind: "PersistentVolumeClaim", metadata: { name: "runs", namespace } };
  const spec = { storageClassName, accessModes, capacity: size, hostPath: { path: folder }, claimRef: { namespace, name: "runs" } };
  return [
    { apiVersion: "v1", kind: "Namespace", metadata: { name: namespace, labels: { "pod-security.kubernetes.io/enforce": "restricted" } } },
    { apiVersion: "v1", kind: "PersistentVolume", metadata: { name: namespace }, spec },
    { apiVersion: "v1", ...claim, spec: { storageClassName, accessModes, volumeName: namespace, resources: { requests: size } } },
  ];
}

const jobOf = (name: string, spec: object): TrainingObject => ({
  apiVersion: "enodia.dev/v1alpha1",
  kind: "MoETrainingJob",
  metadata: { name },
  spec: {
    model: { uri: "pvc://runs/tiny", init: "Random" },
    data: { uri: "pvc://runs/tokens", sequenceLength: 16 },
    memoryPerRank: "1Gi",
    checkpoint: { everySteps: 50, keep: 2 },
    output: { uri: `pvc://runs/${name}` },
    podTemplate: { spec: { containers: [{ name: "runtime", resources: { requests: { cpu: "100m" } } }] } },
    ...spec,
  },
});

export async function openTraining(namespace: string): Promise<TrainingWorld> {
  const target = await openWorld();
  const folder = mkdtempSync(join(tmpdir(), "enodia-e2e-training-"));
  for (const name of ["tiny", "tokens"]) mkdirSync(join(folder, name));
  cpSync(tinyModel.dir, join(folder, "tiny"), { recursive: true });
  const tokens = Array.from({ length: 20_000 }, (_, i) => (i * 37 + ((i * i) % 11)) % tinyModel.vocab);
  await writeCorpus(join(folder, "tokens"), tokens);
  chmodSync(folder, 0o777); // pods write as another user
  const kubectl = kubectlOf(target, namespace);
  await kubectl.apply(...storage(namespace, folder));
  const podsOf = (name: string, and = ""): Promise<readonly KubeObject[]> => kubectl.list("pods", `enodia.dev/training-job=${name}${and}`);
  const pods = (name: string): Promise<readonly KubeObject[]> => podsOf(name, ",enodia.dev/component=trainer");
  return {
    target,
    kubectl,
    folder,
    job: jobOf,
    pods,
    podsGone: (name) =>
      until(`the pods of ${name} to be gone`, async () => ((await podsOf(name)).length === 0 ? true : undefined), { timeoutMs: 180_000 }),
    complete: (name, timeoutMs = 480_000) =>
      kubectl.waitFor("moet", name, `${name} to be Complete`, (moet) => condition(moet, "Complete")?.status === "True", timeoutMs),
    digest: (name) =>
      createHash("sha256")
        .update(readFileSync(join(folder, name, "huggingface/model.safetensors")))
        .digest("hex"),
    async beginsOf(name, uid) {
      const pod = (await pods(name)).find(({ metadata }) => metadata.uid === uid);
      const log = await kubectl.run(["logs", pod?.metadata.name ?? "", "-c", "runtime"]);
      const lines = log.split("\n").filter((line) => line.startsWith("{"));
      return lines.map((line) => JSON.parse(line)).filter(({ message }) => message === "training");
    },
    async close() {
      await kubectl.try(["delete", "moet,moed", "--all"]);
      await kubectl.try(["delete", "namespace", namespace, "--wait=false"]);
      await kubectl.try(["delete", "pv", namespace, "--wait=false"]);
      rmSync(folder, { recursive: true, force: true });
    },
  };
}
