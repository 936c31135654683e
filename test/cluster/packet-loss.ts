// Packets that a node of a local cluster loses: its own and its pods' at random, or all that come to one of its pods.
import { run } from "./exec.ts";
import { ClusterError, nodeIndex, nodeNames } from "./names.ts";
import { namesOf, readState } from "./state.ts";

const table = "enodia-loss";

type Heal = () => Promise<void>;

/** Drops `percent` of what comes to the node and what goes through it, both ways; resolves to what ends that. */
export const losePackets = (cluster: string, node: string, percent: number): Promise<Heal> =>
  drop(cluster, node, ["input", "forward"], `numgen random mod 100 < ${percent}`);

/** Holds what others send to the pod: it comes at the end, since they send it again. What the pod sends goes on. */
export const holdPackets = (cluster: string, node: string, podIp: string): Promise<Heal> =>
  drop(cluster, node, ["forward"], `ip daddr ${podIp}`);

async function drop(cluster: string, node: string, hooks: readonly string[], match: string): Promise<Heal> {
  const state = readState(cluster);
  const index = nodeIndex(cluster, node);
  if (!state?.nodes.some((one) => one.index === index)) throw new ClusterError(`cluster "${cluster}" has no node "${node}"`);
  const { netns } = nodeNames(namesOf(state), index);
  const hook = (name: string): string => `chain ${name} { type filter hook ${name} priority -300; ${match} drop; };`;
  const nft = (text: string, allowFailure = false) =>
    run("ip", ["netns", "exec", netns, "nft", "-f", "-"], { input: `${text}\n`, allowFailure });
  await nft(`table inet ${table} { ${hooks.map(hook).join(" ")} }`);
  return async () => {
    await nft(`delete table inet ${table}`, true); // the node may be off by now
  };
}
