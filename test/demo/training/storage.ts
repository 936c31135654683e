// The folder that the training demo works in, on this machine and as the claim `runs` of every node: the guides as text, the model, token
// data, and what the job writes. It is made anew by each run, and left for people to look at. Shell.
import { chmodSync, globSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { cacheRoot } from "../../cluster/binaries.ts";
import { type Log, root } from "../../kit/deployment/product.ts";
import { execOk } from "../../kit/processes/process.ts";
import { modelFiles } from "./model.ts";

/** What the model reads: the guides of this repository. */
const guides = globSync(["README.md", "crds/REFERENCE.md", "{charts,operator,runtime}/**/*.md"], { cwd: root }).sort();

export const folder = (): string => join(cacheRoot(), "demo-training");
export const runFolder = (): string => join(folder(), "run");
export const metricsFile = (): string => join(runFolder(), "metrics.jsonl");

export const guideText = (): string => guides.map((file) => readFileSync(join(root, file), "utf8")).join("\n");

/** Claim and volume of the folder, and a namespace that enforces the restricted level. */
export function storageObjects(namespace: string): readonly object[] {
  const [size, storageClassName, accessModes] = [{ storage: "1Gi" }, "", ["ReadWriteMany"]];
  const volume = `runs-${namespace}`;
  const hostPath = { path: folder(), type: "Directory" };
  return [
    { apiVersion: "v1", kind: "Namespace", metadata: { name: namespace, labels: { "pod-security.kubernetes.io/enforce": "restricted" } } },
    {
      apiVersion: "v1",
      kind: "PersistentVolume",
      metadata: { name: volume },
      spec: {
        storageClassName,
        accessModes,
        persistentVolumeReclaimPolicy: "Retain",
        capacity: size,
        hostPath,
        claimRef: { namespace, name: "runs" },
      },
    },
    {
      apiVersion: "v1",
      kind: "PersistentVolumeClaim",
      metadata: { name: "runs", namespace },
      spec: { storageClassName, accessModes, volumeName: volume, resources: { requests: size } },
    },
  ];
}

/** Writes model and token data; returns how many tokens there are. */
export async function fillFolder(log: Log, signal: AbortSignal): Promise<number> {
  const [text, model, tokens] = ["text", "model", "tokens"].map((name) => join(folder(), name)) as [string, string, string];
  rmSync(folder(), { recursive: true, force: true });
  for (const path of [text, model, runFolder()]) mkdirSync(path, { recursive: true });
  for (const [name, content] of Object.entries(modelFiles)) writeFileSync(join(model, name), content);
  for (const [i, file] of guides.entries()) writeFileSync(join(text, `${i}.txt`), readFileSync(join(root, file)));
  const args = ["data", "import", text, "--model", model, "--out", tokens];
  log(`enodia ${args.join(" ")}`);
  const command = ["--disable-warning=ExperimentalWarning", join(root, "operator/cli/main.ts"), ...args, "--json"];
  const told = JSON.parse(await execOk(process.execPath, command, { signal })) as { tokens: number };
  chmodSync(runFolder(), 0o777); // pods write as another user
  return told.tokens;
}
