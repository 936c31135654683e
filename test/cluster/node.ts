// One node of a local cluster: a network, mount and pid namespace with containerd, kubelet and kube-proxy. Ending its first process
// ends all of it.

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Binaries } from "./binaries.ts";
import { componentKubeconfig, makeNodeCertificate, pkiFile } from "./certs.ts";
import { delegateCgroup, killCgroup, makeCgroup, removeCgroup } from "./cgroups.ts";
import { type RunResult, run, waitFor } from "./exec.ts";
import { ClusterError, type ClusterNames, clusterDomain, type NodeNames } from "./names.ts";
import { netnsPath } from "./network.ts";
import { cniFolder } from "./packages.ts";
import { endProcesses, isAlive, logTail, startProcess, startTimeOf } from "./processes.ts";
import type { ProcessRecord } from "./state.ts";
import { flags, type Program, quote, supervisorScript } from "./supervisor.ts";

/** Inside the node, whose /run is its own and empty at every start. */
const runtimeSocket = "/run/containerd/containerd.sock";
export const pauseImage = "enodia/pause:1";
/** Folders that the kubelet writes whatever its --root-dir says: every node gets its own, the host's stay empty. */
export const fixedFolders = ["/var/lib/kubelet", "/var/log/containers"];
const initTimeoutMs = 10_000;
const runtimeTimeoutMs = 60_000;
const importTimeoutMs = 10 * 60_000;
/** statfs type numbers; overlayfs cannot lie on overlayfs. */
const overlayMagic = 0x794c7630;

export interface NodeContext {
  readonly cluster: ClusterNames;
  readonly node: NodeNames;
  readonly binaries: Binaries;
}

function containerdConfig({ node }: NodeContext, snapshotter: string): string {
  const plugins = cniFolder();
  return `version = 3
root = '${node.folder}/containerd'
state = '/run/containerd'
disabled_plugins = ['io.containerd.nri.v1.nri', 'io.containerd.tracing.processor.v1.otlp', 'io.containerd.internal.v1.tracing']

[grpc]
address = '${runtimeSocket}'

[plugins.'io.containerd.cri.v1.images']
snapshotter = '${snapshotter}'

[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = '${pauseImage}'

[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true

[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ['${plugins}']
conf_dir = '${node.folder}/cni'

[plugins.'io.containerd.cri.v1.runtime'.containerd]
default_runtime_name = 'runc'

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = 'io.containerd.runc.v2'

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
SystemdCgroup = false
`;
}

/** `ptp` routes every pod for itself: no second bridge, so a service's answer always passes the node's connection tracking. */
function cniConfig({ node }: NodeContext): string {
  const ipam = { type: "host-local", dataDir: "/run/cni", ranges: [[{ subnet: node.podCidr }]], routes: [{ dst: "0.0.0.0/0" }] };
  const plugins = [
    { type: "ptp", ipMasq: false, ipam },
    { type: "portmap", capabilities: { portMappings: true } },
  ];
  return JSON.stringify({ cniVersion: "1.0.0", name: "enodia", plugins }, null, 2);
}

function kubeletConfig({ cluster, node }: NodeContext): string {
  return JSON.stringify(
    {
      apiVersion: "kubelet.config.k8s.io/v1beta1",
      kind: "KubeletConfiguration",
      address: node.address,
      authentication: { anonymous: { enabled: false }, webhook: { enabled: true }, x509: { clientCAFile: pkiFile(cluster, "ca.crt") } },
      authorization: { mode: "Webhook" },
      tlsCertFile: pkiFile(cluster, `${node.name}.crt`),
      tlsPrivateKeyFile: pkiFile(cluster, `${node.name}.key`),
      clusterDNS: [cluster.hostAddress],
      clusterDomain,
      resolvConf: join(node.folder, "resolv.conf"),
      containerRuntimeEndpoint: `unix://${runtimeSocket}`,
      cgroupDriver: "cgroupfs",
      cgroupRoot: `/${node.cgroup}`,
      failCgroupV1: false,
      failSwapOn: false,
      podLogsDir: join(node.folder, "pods"),
      volumePluginDir: join(node.folder, "volume-plugins"),
      nodeStatusUpdateFrequency: "3s",
      nodeStatusReportFrequency: "1m",
      nodeLeaseDurationSeconds: 8,
      serializeImagePulls: false,
      // The disk is the developer's own: how full it is says nothing about the node.
      evictionHard: { "memory.available": "100Mi" },
      imageGCHighThresholdPercent: 100,
      imageGCLowThresholdPercent: 99,
      shutdownGracePeriod: "0s",
      logging: { flushFrequency: "1s" },
    },
    null,
    2,
  );
}

function proxyConfig({ cluster, node }: NodeContext): string {
  return JSON.stringify(
    {
      apiVersion: "kubeproxy.config.k8s.io/v1alpha1",
      kind: "KubeProxyConfiguration",
      mode: "nftables",
      clientConnection: { kubeconfig: componentKubeconfig(cluster, "kube-proxy") },
      hostnameOverride: node.name,
      bindAddress: node.address,
      healthzBindAddress: `${node.address}:10256`,
      metricsBindAddress: "127.0.0.1:10249",
      clusterCIDR: cluster.podCidr,
      // Connection tracking sizes belong to the machine, not to a node on it.
      conntrack: { maxPerCore: 0, tcpEstablishedTimeout: "0s", tcpCloseWaitTimeout: "0s" },
      nftables: { minSyncPeriod: "200ms", syncPeriod: "30s" },
    },
    null,
    2,
  );
}

function programs(context: NodeContext): Program[] {
  const { cluster, node, binaries } = context;
  const file = (name: string) => join(node.folder, name);
  const shims = join(binaries["containerd-shim-runc-v2"], "..");
  const kubelet = {
    config: file("kubelet.json"),
    kubeconfig: componentKubeconfig(cluster, node.name),
    "root-dir": file("kubelet"),
    "cert-dir": file("kubelet-pki"),
    "hostname-override": node.name,
    "node-ip": node.address,
    "node-labels": `topology.kubernetes.io/zone=${node.zone},topology.kubernetes.io/region=local`,
  };
  return [
    {
      name: "containerd",
      command: [binaries.containerd, "--config", file("containerd.toml"), "--log-level", "info"],
      env: { PATH: `${shims}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin` },
    },
    { name: "kubelet", command: [binaries.kubelet, ...flags(kubelet)], after: runtimeSocket },
    { name: "kube-proxy", command: [binaries["kube-proxy"], "--config", file("kube-proxy.json")] },
  ];
}

async function writeConfigs(context: NodeContext): Promise<string> {
  const { node } = context;
  const file = (name: string) => join(node.folder, name);
  for (const folder of ["cni", "logs", "pods", "kubelet", "containerd", "volume-plugins"]) mkdirSync(file(folder), { recursive: true });
  const { stdout } = await run("stat", ["-f", "-c", "%t", node.folder]);
  const snapshotter = Number.parseInt(stdout.trim(), 16) === overlayMagic ? "native" : "overlayfs";
  writeFileSync(file("containerd.toml"), containerdConfig(context, snapshotter));
  writeFileSync(file("cni/10-enodia.conflist"), cniConfig(context));
  writeFileSync(file("kubelet.json"), kubeletConfig(context));
  writeFileSync(file("kube-proxy.json"), proxyConfig(context));
  writeFileSync(file("resolv.conf"), `nameserver ${context.cluster.hostAddress}\n`);
  // The root is shared inside the node, as the kubelet wants it, and a slave of the host: what the node mounts never shows outside.
  const privately = ["/run", ...fixedFolders].map((path) => `mount -t tmpfs -o mode=755 tmpfs ${path}`);
  const prepare = ["mount --make-rshared /", ...privately, "mkdir -p /run/containerd /run/lock"];
  for (const folder of fixedFolders) mkdirSync(folder, { recursive: true });
  const script = file("node.sh");
  writeFileSync(script, supervisorScript({ logs: file("logs"), prepare, programs: programs(context) }), { mode: 0o700 });
  return script;
}

/** Starts the node's processes; network, cluster certificates and control plane must be there. Returns the records to keep. */
export async function startNodeProcesses(context: NodeContext): Promise<ProcessRecord[]> {
  const { cluster, node } = context;
  await makeNodeCertificate(cluster, node);
  const script = await writeConfigs(context);
  const cgroup = `${node.cgroup}/system`;
  makeCgroup(cgroup);
  delegateCgroup(node.cgroup);
  const log = join(node.folder, "logs", "supervisor.log");
  const namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--propagation", "slave", "--mount-proc"];
  const command = ["nsenter", `--net=${netnsPath(node.netns)}`, ...namespaces, "bash", script];
  const outer = startProcess({ role: `${node.name} namespaces`, command, cgroup, log });
  const inner = await waitFor(`${node.name} to start (${log}: ${logTail(log)})`, { timeoutMs: initTimeoutMs, everyMs: 20 }, async () => {
    if (!isAlive(outer)) throw new ClusterError(`${node.name} did not start: ${logTail(log)}`);
    const pid = Number(readFileSync(`/proc/${outer.pid}/task/${outer.pid}/children`, "utf8").trim().split(" ")[0]);
    const startTime = pid > 0 ? startTimeOf(pid) : undefined;
    return startTime === undefined ? undefined : { role: `${node.name} init`, pid, startTime };
  });
  return [inner, outer];
}

/**
 * Ends a node like a power cut: nothing inside gets to say goodbye. The pid namespace dies with its first process, the mounts with
 * the namespace.
 */
export async function killNodeProcesses(node: NodeNames, processes: readonly ProcessRecord[]): Promise<void> {
  await endProcesses(processes);
  await killCgroup(node.cgroup);
  await removeCgroup(node.cgroup);
}

/** Runs a program inside the node's namespaces. */
export function runInNode(init: ProcessRecord, command: readonly string[], input?: string, signal?: AbortSignal): Promise<RunResult> {
  const enter = `exec nsenter -t ${init.pid} -m -p -n -- ${command.map(quote).join(" ")}`;
  const redirect = input === undefined ? "" : ` < ${quote(input)}`;
  return run("/bin/sh", ["-c", enter + redirect], { timeoutMs: importTimeoutMs, signal });
}

const ctr = (binaries: Binaries, ...args: string[]) => [binaries.ctr, "--address", runtimeSocket, "-n", "k8s.io", ...args];

export async function waitForRuntime({ node, binaries }: NodeContext, init: ProcessRecord, signal?: AbortSignal): Promise<void> {
  const log = join(node.folder, "logs", "containerd.log");
  try {
    await waitFor(`${node.name}'s containerd`, { timeoutMs: runtimeTimeoutMs, signal }, async () =>
      runInNode(init, ctr(binaries, "version")).then(
        () => true,
        () => undefined,
      ),
    );
  } catch (cause) {
    throw new ClusterError(`${(cause as Error).message}; the end of ${log}:\n${logTail(log)}`);
  }
}

/** Gives an image that the node has one more name. */
export async function tagImageOn({ binaries }: NodeContext, init: ProcessRecord, name: string, more: string): Promise<void> {
  await runInNode(init, ctr(binaries, "images", "tag", "--force", name, more));
}

interface ImageIndex {
  readonly manifests?: readonly { readonly digest: string; readonly annotations?: Readonly<Record<string, string>> }[];
}

/** Name and digest of a tar with one image, to compare with what a node has; undefined for any other tar. */
async function describeTar(tar: string): Promise<{ name: string; digest: string } | undefined> {
  const { code, stdout } = await run("tar", ["-xOf", tar, "--occurrence=1", "index.json"], { allowFailure: true });
  if (code !== 0) return undefined;
  const manifests = (JSON.parse(stdout) as ImageIndex).manifests ?? [];
  const name = manifests[0]?.annotations?.["io.containerd.image.name"];
  return manifests.length === 1 && manifests[0] !== undefined && name !== undefined ? { name, digest: manifests[0].digest } : undefined;
}

/** Imports an OCI image tar of this machine, unless the node has that very image whole; layers that it has are skipped. */
export async function importImage({ binaries }: NodeContext, init: ProcessRecord, tar: string, signal?: AbortSignal): Promise<void> {
  const image = await describeTar(tar);
  if (image !== undefined) {
    const { stdout } = await runInNode(init, ctr(binaries, "images", "check", `name==${image.name}`));
    if (stdout.split("\n").some((line) => line.includes(image.digest) && line.includes("complete") && /\btrue\s*$/.test(line))) return;
  }
  await runInNode(init, ctr(binaries, "images", "import", "-"), tar, signal);
}
