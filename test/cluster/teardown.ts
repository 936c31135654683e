// The removal of everything a cluster of a given name has on this machine, however far it had come and however it ended. Every step
// may be repeated.

import { existsSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { cgroupExists, killCgroup, removeCgroup } from "./cgroups.ts";
import { run } from "./exec.ts";
import { ClusterError, type ClusterNames, nodeNames } from "./names.ts";
import { netnsExists, removeBridge, removeFirewall, removeNodeNetwork } from "./network.ts";
import { fixedFolders } from "./node.ts";
import { endProcesses } from "./processes.ts";
import { bootId, type ClusterState, clusterStates, namesOf, refuseForeignFolder, removeFolder, stateRoot, writeState } from "./state.ts";

/** Kernel settings that kubelets change for the whole machine; the last cluster to go puts them back, and what `prepareHost` raised. */
const kubeletSettings = [
  "vm/overcommit_memory",
  "vm/panic_on_oom",
  "kernel/panic",
  "kernel/panic_on_oops",
  "kernel/keys/root_maxkeys",
  "kernel/keys/root_maxbytes",
];
/** Every kubelet, containerd and pod watches files: with a few nodes the usual 128 instances run out, and nothing says so clearly. */
const inotifyMin: Readonly<Record<string, number>> = { "fs/inotify/max_user_instances": 8192, "fs/inotify/max_user_watches": 524_288 };
export interface HostBefore {
  readonly settings: Readonly<Record<string, string>>;
  /** Folders that were not there. */
  readonly folders: readonly string[];
}

export function hostBefore(): HostBefore {
  const other = clusterStates().find((state) => state.host !== undefined)?.host;
  if (other !== undefined) return other;
  const read = (key: string) => readFileSync(`/proc/sys/${key}`, "utf8").trim();
  const settings = [...kubeletSettings, ...Object.keys(inotifyMin)]
    .filter((key) => existsSync(`/proc/sys/${key}`))
    .map((key) => [key, read(key)]);
  return { settings: Object.fromEntries(settings), folders: fixedFolders.filter((folder) => !existsSync(folder)) };
}

/** Prepares the host, after what it changes was recorded by `hostBefore`. */
export function prepareHost(): void {
  for (const [key, value] of Object.entries(inotifyMin)) {
    const file = `/proc/sys/${key}`;
    if (existsSync(file) && Number(readFileSync(file, "utf8")) < value) writeFileSync(file, String(value));
  }
}

function restoreHost(host: HostBefore): void {
  for (const [key, value] of Object.entries(host.settings)) {
    const file = `/proc/sys/${key}`;
    if (readFileSync(file, "utf8").trim() !== value) writeFileSync(file, value);
  }
  for (const folder of host.folders) {
    try {
      if (existsSync(folder)) rmdirSync(folder);
    } catch {
      // something else uses it by now
    }
  }
}

/** Mounts that are still visible on the host below the cluster's folder: none normally, as nodes mount in their own namespace. */
function mountsBelow(folder: string): string[] {
  return readFileSync("/proc/self/mounts", "utf8")
    .split("\n")
    .map((line) => (line.split(" ")[1] ?? "").replaceAll("\\040", " "))
    .filter((path) => path.startsWith(`${folder}/`))
    .reverse();
}

/** What is mounted below the folder would be removed with it, and is somebody's data: a volume, or the models of this machine. */
export function refuseMounts(mounts: readonly string[]): void {
  if (mounts.length === 0) return;
  throw new ClusterError(
    `${mounts.join(", ")} cannot be unmounted, and what is mounted there would be lost: unmount it, then "down" again`,
  );
}

/** Namespaces whose names this cluster would have given, beyond the nodes in its state file. */
function strayNodeIndexes(cluster: ClusterNames): number[] {
  const folder = "/run/netns";
  if (!existsSync(folder)) return [];
  const pattern = new RegExp(`^enodia-${cluster.name}-(\\d+)$`);
  return readdirSync(folder).flatMap((name) => {
    const index = Number(pattern.exec(name)?.[1]);
    return Number.isInteger(index) ? [index] : [];
  });
}

export async function clearCluster(state: ClusterState): Promise<void> {
  const cluster = namesOf(state);
  state.phase = "stopping";
  writeState(state);
  // Pids recorded before a reboot name strangers now; start times could match by bad luck.
  const sameBoot = state.bootId === bootId();
  const records = [...state.nodes.flatMap((node) => node.processes), ...state.control];
  if (sameBoot) await endProcesses(records);
  // Whatever a run that died early started is in the cluster's cgroup, recorded or not.
  await killCgroup(cluster.cgroup);
  const indexes = new Set([...state.nodes.map((node) => node.index), ...strayNodeIndexes(cluster)]);
  for (const index of indexes) await removeNodeNetwork(nodeNames(cluster, index));
  await removeBridge(cluster);
  await removeFirewall(state.firewall);
  await removeCgroup(cluster.cgroup);
  for (const path of mountsBelow(cluster.folder)) await run("umount", ["-l", path], { allowFailure: true });
  refuseMounts(mountsBelow(cluster.folder));
  removeFolder(state.name);
  if (state.host !== undefined && clusterStates().length === 0) restoreHost(state.host);
}

/** The things of a cluster that are still on the machine; empty after `down`. */
export function leftovers(state: ClusterState): string[] {
  const cluster = namesOf(state);
  const left: string[] = [];
  if (existsSync(`/sys/class/net/${cluster.bridge}`)) left.push(`bridge ${cluster.bridge}`);
  if (cgroupExists(cluster.cgroup)) left.push(`cgroup ${cluster.cgroup}`);
  for (const index of new Set([...state.nodes.map((node) => node.index), ...strayNodeIndexes(cluster)])) {
    const node = nodeNames(cluster, index);
    if (netnsExists(node.netns)) left.push(`network namespace ${node.netns}`);
    if (existsSync(`/sys/class/net/${node.hostLink}`)) left.push(`link ${node.hostLink}`);
  }
  left.push(...mountsBelow(cluster.folder).map((path) => `mount ${path}`));
  if (existsSync(`${stateRoot()}/${state.name}`)) left.push(`folder ${cluster.folder}`);
  return left;
}

/** Before a cluster is made: throws when its folder holds something else, or when a cluster of its name is on the machine already. */
export function refuseForeign(state: ClusterState): void {
  refuseForeignFolder(state.name);
  refuseForeignThings(state.name, leftovers(state));
}

/**
 * Things of this name are of a cluster that another ENODIA_STATE knows, and clearing a failed start would end it. An empty folder is what
 * a run left that died before it had a state.
 */
export function refuseForeignThings(name: string, left: readonly string[]): void {
  const things = left.filter((thing) => !thing.startsWith("folder "));
  if (things.length === 0) return;
  throw new ClusterError(
    `${things.join(", ")}: a cluster "${name}" is here, of which ${stateRoot()} knows nothing: use another --name, ` +
      `or "down" with the ENODIA_STATE that it was started with`,
  );
}
