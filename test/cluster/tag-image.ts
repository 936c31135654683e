// One more name for an image that the nodes of a cluster have: two releases that are the same image, for tests of upgrades.
import { binaryPaths } from "./binaries.ts";
import { fullReference } from "./image.ts";
import { ClusterError, nodeNames } from "./names.ts";
import { tagImageOn } from "./node.ts";
import { namesOf, readState } from "./state.ts";

/** In every node that runs; `image` is a name such as "enodia/runtime:dev". */
export async function tagImage(cluster: string, image: string, more: string): Promise<void> {
  const state = readState(cluster);
  if (!state) throw new ClusterError(`no cluster "${cluster}"`);
  const names = namesOf(state);
  for (const { index, power, processes } of state.nodes) {
    const init = power === "on" ? processes[0] : undefined;
    const context = { cluster: names, node: nodeNames(names, index), binaries: binaryPaths() };
    if (init !== undefined) await tagImageOn(context, init, fullReference(image), fullReference(more));
  }
}
