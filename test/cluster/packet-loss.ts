// Packets that a node of a local cluster loses, its own and its pods', at random.
import { run } from "./exec.ts";
import { ClusterError, nodeIndex, nodeNames } from "./names.ts";
import { namesOf, readState } from "./state.ts";

const table = "enodia-loss";

/** Drops `percent` of what comes to the node and what goes through it, both ways; resolves to what ends that. */
export async function losePackets(cluster: string, node: string, percent: number): Promise<() => Promise<void>> {
  const state = readState(cluster);
  const index = nodeIndex(cluster, node);
  if (!state?.nodes.some((one) => one.index === index)) throw new ClusterError(`cluster "${cluster}" has no node "${node}"`);
  const { netns } = nodeNames(namesOf(state), index);
  const rule = `numgen random mod 100 < ${percent} drop`;
  const hook = (name: string): string => `chain ${name} { type filter hook ${name} priority -300; ${rule}; };`;
  const nft = (text: string, allowFailure = false) =>
    run("ip", ["netns", "exec", netns, "nft", "-f", "-"], { input: `${text}\n`, allowFailure });
  await nft(`table inet ${table} { ${hook("input")} ${hook("forward")} }`);
  return async () => {
    await nft(`delete table inet ${table}`, true); // the node may be off by now
  };
}
