// A cluster of the user's own: kubectl and helm from PATH, images loaded by kind or k3d when the context is one of theirs.
// Everything is checked before anything is touched.

import { buildProductImages } from "../cluster/product-images.ts";
import { imageFolder, root, type Target } from "../kit/deployment/product.ts";
import { exec, execOk } from "../kit/processes/process.ts";

interface Own {
  readonly kubeconfig: string | undefined;
  readonly context: string | undefined;
  readonly imageRegistry: string | undefined;
  readonly signal: AbortSignal;
}

export async function ensureClusterTools(own: Own): Promise<Target> {
  const { signal } = own;
  for (const tool of ["kubectl", "helm"]) {
    const found = await exec("sh", ["-c", `command -v ${tool}`]);
    if (found.code !== 0) throw new Error(`${tool} is not on PATH: install it, or leave out --kubeconfig/--context for the local cluster`);
  }
  const flags = [...(own.kubeconfig ? ["--kubeconfig", own.kubeconfig] : [])];
  const context = own.context ?? (await execOk("kubectl", [...flags, "config", "current-context"], { signal })).trim();
  const target: Target = {
    kubectl: "kubectl",
    helm: "helm",
    context,
    ...(own.kubeconfig ? { kubeconfig: own.kubeconfig } : {}),
    ...(own.imageRegistry ? { imageRegistry: own.imageRegistry } : {}),
  };
  if (own.imageRegistry) return target;
  const loader = loaderFor(context);
  if (!loader) {
    throw new Error(
      `context "${context}" is neither kind nor k3d: push the images (README: Install) and pass --image-registry <registry>; nothing was changed`,
    );
  }
  const images = await buildProductImages({ repo: root, out: imageFolder(), log: () => undefined, signal });
  for (const image of [images.operator, images.runtime, images.training, images.nats])
    await execOk(loader.command, loader.args(image.out), { signal });
  return target;
}

function loaderFor(context: string): { command: string; args: (tar: string) => readonly string[] } | undefined {
  if (context.startsWith("kind-")) {
    return { command: "kind", args: (tar) => ["load", "image-archive", tar, "--name", context.slice("kind-".length)] };
  }
  if (context.startsWith("k3d-"))
    return { command: "k3d", args: (tar) => ["image", "import", tar, "--cluster", context.slice("k3d-".length)] };
  return undefined;
}
