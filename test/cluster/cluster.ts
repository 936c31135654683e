// A real Kubernetes on this machine: control plane on the host, every node in namespaces of its own. The e2e tests, the demo and the
// command line use it. All calls need root on Linux. One command at a time works on a cluster of a given name; two clusters may live
// at once.

import { existsSync, mkdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { type Binaries, binaryPaths, ensureBinaries } from "./binaries.ts";
import { makeClusterCertificates } from "./certs.ts";
import { favour, makeCgroup } from "./cgroups.ts";
import { makeEtcdDisk } from "./control-disk.ts";
import { startControlPlane, waitForControlPlane } from "./control-plane.ts";
import { type Log, run, waitFor } from "./exec.ts";
import { withLock } from "./lock.ts";
import {
  ClusterError,
  type ClusterNames,
  checkName,
  clusterNames,
  type NodeNames,
  nodeIndex,
  nodeNames,
  nodesMax,
  pickSlot,
} from "./names.ts";
import { addFirewall, hostRoutes, makeBridge, neededFirewall, overlapsAny, removePodLinks, setLink, wireNode } from "./network.ts";
import { importImage, killNodeProcesses, startNodeProcesses, waitForRuntime } from "./node.ts";
import { ensureHostPackages } from "./packages.ts";
import { ensurePauseImage } from "./pause-image.ts";
import { isAlive, logTail } from "./processes.ts";
import { routeToServices } from "./service-route.ts";
import { type ClusterState, clusterStates, emptyState, type NodeState, namesOf, readState, stateRoot, writeState } from "./state.ts";
import { clearCluster, hostBefore, prepareHost, refuseForeign } from "./teardown.ts";

export const defaultName = "enodia";
export const defaultNodes = 3;
const nodeReadyTimeoutMs = 180_000;

export interface ClusterNode {
  /** The name that `kubectl get nodes` shows: <cluster>-1, <cluster>-2, ... */
  readonly name: string;
  readonly address: string;
  readonly zone: string;
}

export interface Cluster {
  readonly name: string;
  /** Path of the administrator's kubeconfig. */
  readonly kubeconfig: string;
  /** The API server as the host and the nodes reach it. */
  readonly server: string;
  readonly nodes: readonly ClusterNode[];
  /** Logs lie in logs/ (control plane) and nodes/<node>/logs/ below it. */
  readonly folder: string;
  /** Programs by their names with camel case for kebab case, e.g. kubectl, helm, natsServer. */
  readonly binaries: { readonly kubectl: string; readonly helm: string; readonly natsServer: string; readonly ctr: string };
}

export interface UpOptions {
  readonly name?: string;
  readonly nodes?: number;
  /** Users whose requests the API server writes down (auditLog of control-plane.ts); nobody's when not given. */
  readonly audited?: readonly string[];
  /** Of etcd's disk, for thousands of objects; the usual size when not given. */
  readonly etcdMiB?: number | undefined;
  readonly log?: Log;
  /** Ends `up` early; what it had made is removed. */
  readonly signal?: AbortSignal;
}

const quiet: Log = () => undefined;

function needRoot(): void {
  if (process.platform !== "linux")
    throw new ClusterError(`the local cluster needs Linux, this is ${process.platform}: use a kubeconfig of your own`);
  if (process.getuid?.() !== 0)
    throw new ClusterError("the local cluster makes network namespaces, mounts and cgroups: run it as root (sudo)");
}

function toCluster(state: ClusterState): Cluster {
  const names = namesOf(state);
  const binaries = binaryPaths();
  return {
    name: state.name,
    kubeconfig: names.kubeconfig,
    server: names.server,
    folder: names.folder,
    nodes: state.nodes.map((node) => {
      const { name, address, zone } = nodeNames(names, node.index);
      return { name, address, zone };
    }),
    binaries: { kubectl: binaries.kubectl, helm: binaries.helm, natsServer: binaries["nats-server"], ctr: binaries.ctr },
  };
}

function need(name: string): ClusterState {
  checkName(name);
  const state = readState(name);
  if (state === undefined) {
    const others = clusterStates().map((other) => other.name);
    const known = others.length === 0 ? "there is none" : `there is ${others.join(", ")}`;
    throw new ClusterError(`no cluster "${name}" (${known}): start it with "up --name ${name}"`);
  }
  return state;
}

function needNode(state: ClusterState, node: string): { node: NodeState; names: NodeNames } {
  const index = nodeIndex(state.name, node);
  const found = state.nodes.find((one) => one.index === index);
  if (found === undefined) {
    const known = state.nodes.map((one) => `${state.name}-${one.index}`).join(", ");
    throw new ClusterError(`cluster "${state.name}" has no node "${node}": it has ${known}`);
  }
  return { node: found, names: nodeNames(namesOf(state), index) };
}

async function chooseSlot(name: string): Promise<number> {
  const routes = await hostRoutes();
  const used = new Set(clusterStates().map((state) => state.slot));
  return pickSlot(name, (slot) => {
    const names = clusterNames(name, slot, stateRoot());
    return used.has(slot) || overlapsAny([names.subnet, names.podCidr, names.serviceCidr], routes);
  });
}

interface Work {
  readonly state: ClusterState;
  readonly cluster: ClusterNames;
  readonly binaries: Binaries;
  readonly log: Log;
  readonly audited?: readonly string[] | undefined;
  readonly etcdMiB?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

const workOn = (state: ClusterState, log: Log = quiet): Work => ({ state, cluster: namesOf(state), binaries: binaryPaths(), log });

/** Makes the node's network and starts its processes; the API server may still be starting. */
async function bootNode(work: Work, node: NodeState): Promise<NodeNames> {
  const names = nodeNames(work.cluster, node.index);
  const context = { cluster: work.cluster, node: names, binaries: work.binaries };
  const all = work.state.nodes.map((one) => nodeNames(work.cluster, one.index));
  await wireNode(work.cluster, names, all);
  node.processes = await startNodeProcesses(context);
  node.power = "on";
  node.link = "up";
  writeState(work.state);
  const init = node.processes[0];
  if (init === undefined) throw new ClusterError(`${names.name} has no first process`);
  await waitForRuntime(context, init, work.signal);
  await importImage(context, init, await ensurePauseImage(work.binaries));
  return names;
}

interface NodeStatus {
  status?: { conditions?: { type: string; status: string; lastHeartbeatTime: string; message: string }[] };
}

/** Ready, and said so after `since`: a node that was just killed still looks Ready for a while. */
async function waitNodeReady(work: Work, names: NodeNames, since: number): Promise<void> {
  const args = ["--kubeconfig", work.cluster.kubeconfig, "get", "node", names.name, "-o", "json"];
  let last = "it has not registered";
  try {
    await waitFor(`node ${names.name} to be Ready`, { timeoutMs: nodeReadyTimeoutMs, everyMs: 400, signal: work.signal }, async () => {
      const result = await run(work.binaries.kubectl, args, { allowFailure: true });
      if (result.code !== 0) return undefined;
      const ready = (JSON.parse(result.stdout) as NodeStatus).status?.conditions?.find((condition) => condition.type === "Ready");
      if (ready !== undefined) last = ready.message;
      const fresh = ready !== undefined && Date.parse(ready.lastHeartbeatTime) >= Math.floor(since / 1000) * 1000;
      return fresh && ready.status === "True" ? true : undefined;
    });
  } catch (cause) {
    const log = join(names.folder, "logs", "kubelet.log");
    throw new ClusterError(`${(cause as Error).message} (${last}); the end of ${log}:\n${logTail(log)}`);
  }
}

async function build(work: Work): Promise<void> {
  const { state, cluster, log } = work;
  const started = Date.now();
  mkdirSync(cluster.folder, { recursive: true, mode: 0o700 });
  await makeClusterCertificates(cluster);
  await makeBridge(cluster);
  state.firewall = await neededFirewall(cluster);
  writeState(state);
  await addFirewall(state.firewall);
  makeCgroup(cluster.cgroup);
  favour(cluster.cgroup);
  await makeEtcdDisk(cluster, work.etcdMiB);
  state.control = [startControlPlane(cluster, work.binaries, work.audited ?? [])];
  writeState(state);
  const ready = waitForControlPlane(cluster, work.binaries, work.signal).then(() =>
    log(`control plane ready at ${cluster.server} after ${Math.round((Date.now() - started) / 1000)} s`),
  );
  const nodes = state.nodes.map(async (node) => {
    const names = await bootNode(work, node);
    await ready;
    await waitNodeReady(work, names, started);
    log(`node ${names.name} ready (${names.address}, zone ${names.zone})`);
  });
  const results = await Promise.allSettled([ready, ...nodes]);
  for (const result of results) if (result.status === "rejected") throw result.reason;
  await routeToServices(state);
}

/**
 * Starts a cluster; builds programs and installs host packages first where they are missing. What a dead run of the same name left is
 * cleared; a cluster that is up and whole is an error (`open` returns it). On failure or abort everything made so far is removed.
 */
export async function up(options: UpOptions = {}): Promise<Cluster> {
  const name = options.name ?? defaultName;
  const count = options.nodes ?? defaultNodes;
  const log = options.log ?? quiet;
  const signal = options.signal;
  needRoot();
  checkName(name);
  if (!Number.isInteger(count) || count < 0 || count > nodesMax) throw new ClusterError(`nodes ${count}: use 0..${nodesMax}`);
  await ensureHostPackages(log, signal);
  const binaries = await ensureBinaries(log, { signal });
  await ensurePauseImage(binaries);
  return await withLock(name, async () => {
    const old = readState(name);
    if (old !== undefined && old.phase === "up" && old.control.some(isAlive)) {
      throw new ClusterError(
        `cluster "${name}" is up already: use it (KUBECONFIG=${namesOf(old).kubeconfig}), or "down --name ${name}" first`,
      );
    }
    if (old !== undefined) {
      log(`clearing what an earlier run of "${name}" left`);
      await clearCluster(old);
    }
    const state = emptyState(name, await chooseSlot(name));
    refuseForeign(state);
    state.host = hostBefore();
    state.nodes = Array.from({ length: count }, (_, index) => ({ index: index + 1, power: "off", link: "up", processes: [] }));
    writeState(state);
    try {
      prepareHost();
      await build({ state, cluster: namesOf(state), binaries, log, audited: options.audited, etcdMiB: options.etcdMiB, signal });
      state.phase = "up";
      writeState(state);
      return toCluster(state);
    } catch (cause) {
      log(`"${name}" did not come up: removing what was made`);
      await clearCluster(state);
      throw cause;
    }
  });
}

/** The running cluster of this name; throws when there is none. */
export function open(name: string = defaultName): Cluster {
  const state = need(name);
  if (state.phase !== "up" || !state.control.some(isAlive)) {
    throw new ClusterError(`cluster "${name}" is not running (an earlier run died or is at work): "up --name ${name}" starts it anew`);
  }
  return toCluster(state);
}

/** Removes the cluster and everything it has on this machine; false when there was none. */
export async function down(name: string = defaultName): Promise<boolean> {
  needRoot();
  checkName(name);
  return await withLock(name, async () => {
    const state = readState(name);
    if (state === undefined) return false;
    await clearCluster(state);
    return true;
  });
}

interface NodeReport extends ClusterNode {
  readonly power: "on" | "off" | "dead";
  readonly link: "up" | "cut";
}

export interface ClusterReport {
  readonly name: string;
  readonly phase: ClusterState["phase"];
  readonly controlPlane: "running" | "dead";
  readonly kubeconfig: string;
  readonly nodes: readonly NodeReport[];
}

/** The clusters that run, from the records and the processes alone; without a name, all of them here. */
export function status(name?: string): ClusterReport[] {
  const states = name === undefined ? clusterStates() : [need(name)];
  return states.map((state) => ({
    name: state.name,
    phase: state.phase,
    controlPlane: state.control.some(isAlive) ? "running" : "dead",
    kubeconfig: namesOf(state).kubeconfig,
    nodes: toCluster(state).nodes.map((node, position) => {
      const record = state.nodes[position];
      const alive = record?.processes.some(isAlive) ?? false;
      return { ...node, power: alive ? "on" : record?.power === "off" ? "off" : "dead", link: record?.link ?? "up" };
    }),
  }));
}

/** One change of one running cluster, under its lock. */
async function change<T>(name: string, work: (state: ClusterState) => Promise<T>): Promise<T> {
  needRoot();
  need(name);
  return await withLock(name, () => work(need(name)));
}

/** Imports an OCI image tar into the running nodes (all, or those named). Nodes that come later get it too while the file is there. */
export async function loadImage(name: string, tar: string, options: { nodes?: readonly string[]; signal?: AbortSignal | undefined } = {}) {
  const file = resolve(tar);
  if (!existsSync(file)) throw new ClusterError(`image file ${file}: not found`);
  await change(name, async (state) => {
    const wanted =
      options.nodes?.map((node) => needNode(state, node)) ?? state.nodes.map((node) => needNode(state, `${name}-${node.index}`));
    const running = wanted.filter(({ node }) => node.power === "on");
    const off = options.nodes === undefined ? undefined : wanted.find(({ node }) => node.power === "off");
    if (off !== undefined) throw new ClusterError(`node ${off.names.name} is off: start it with "start-node ${off.names.name}" first`);
    const binaries = binaryPaths();
    const imports = running.map(async ({ node, names }) => {
      const init = node.processes[0];
      if (init !== undefined) await importImage({ cluster: namesOf(state), node: names, binaries }, init, file, options.signal);
    });
    for (const result of await Promise.allSettled(imports)) if (result.status === "rejected") throw result.reason;
    if (options.nodes === undefined && !state.images.includes(file)) state.images.push(file);
    writeState(state);
  });
}

async function importAll(work: Work, node: NodeState, names: NodeNames): Promise<void> {
  const init = node.processes[0];
  for (const tar of work.state.images) {
    if (init !== undefined && existsSync(tar))
      await importImage({ cluster: work.cluster, node: names, binaries: work.binaries }, init, tar);
  }
}

/** Adds the node with the lowest free index and waits until it is Ready. */
export async function addNode(name: string, log: Log = quiet): Promise<ClusterNode> {
  return await change(name, async (state) => {
    const used = new Set(state.nodes.map((node) => node.index));
    let index = 1;
    while (used.has(index)) index++;
    const node: NodeState = { index, power: "off", link: "up", processes: [] };
    nodeNames(namesOf(state), index);
    state.nodes.push(node);
    writeState(state);
    const work = workOn(state, log);
    const since = Date.now();
    const names = await bootNode(work, node);
    await importAll(work, node, names);
    await waitNodeReady(work, names, since);
    await routeToServices(state);
    return { name: names.name, address: names.address, zone: names.zone };
  });
}

/** Power-off: the link goes first, so that no farewell packet leaves; then every process of the node is killed. */
export async function killNode(name: string, node: string): Promise<void> {
  await change(name, async (state) => {
    const found = needNode(state, node);
    await setLink(found.names, "down");
    found.node.power = "off";
    writeState(state);
    await routeToServices(state);
    await killNodeProcesses(found.names, found.node.processes);
    found.node.processes = [];
    writeState(state);
  });
}

/** Power-on of a killed node (its disk is as it was); waits until it is Ready. A node that runs is left alone. */
export async function startNode(name: string, node: string): Promise<void> {
  await change(name, async (state) => {
    const found = needNode(state, node);
    if (found.node.processes.some(isAlive)) return;
    await killNodeProcesses(found.names, []);
    await removePodLinks(found.names);
    const since = Date.now();
    const work = workOn(state);
    await bootNode(work, found.node);
    await importAll(work, found.node, found.names);
    await waitNodeReady(work, found.names, since);
    await routeToServices(state);
  });
}

async function switchLink(name: string, node: string, link: "up" | "cut"): Promise<void> {
  await change(name, async (state) => {
    const found = needNode(state, node);
    if (found.node.power === "off")
      throw new ClusterError(`node ${found.names.name} is off: "start-node ${found.names.name}" brings its link up too`);
    await setLink(found.names, link === "up" ? "up" : "down");
    found.node.link = link;
    writeState(state);
    await routeToServices(state);
  });
}

/** Cuts the node off the network while everything on it runs on. */
export const cutLink = (name: string, node: string): Promise<void> => switchLink(name, node, "cut");
export const healLink = (name: string, node: string): Promise<void> => switchLink(name, node, "up");
