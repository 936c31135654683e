// Steps that several e2e files take with a deployment: its spec is changed, the command line is asked, its ranks are looked at.
import { root, workerPods } from "../kit/deployment/product.ts";
import type { KubeObject } from "../kit/kube/kubectl.ts";
import { execOk } from "../kit/processes/process.ts";
import type { Deployed } from "./world.ts";

/** Merges fields into the spec. */
export const patchSpec = ({ kubectl, name }: Pick<Deployed, "kubectl" | "name">, spec: object): Promise<string> =>
  kubectl.run(["patch", `moed/${name}`, "--type=merge", "-p", JSON.stringify({ spec })]);

/** A command of the command line, in the namespace of the deployment. */
export function enodia({ target, namespace }: Pick<Deployed, "target" | "namespace">, ...args: readonly string[]): Promise<string> {
  const { kubeconfig, context } = target;
  const where = [kubeconfig ? ["--kubeconfig", kubeconfig] : [], context ? ["--context", context] : []].flat();
  const command = ["--disable-warning=ExperimentalWarning", "operator/cli/main.ts", ...args, "-n", namespace, ...where];
  return execOk(process.execPath, command, { cwd: root });
}

export const workerUids = async ({ kubectl, name }: Pick<Deployed, "kubectl" | "name">): Promise<readonly unknown[]> =>
  (await workerPods(kubectl, name)).map(({ metadata }) => metadata.uid).sort();

/** The rollout of the present spec is in a phase. */
export const inPhase = (phase: string) => (moed: KubeObject) =>
  moed.status?.rollout?.phase === phase && moed.status.observedGeneration === moed.metadata.generation;
