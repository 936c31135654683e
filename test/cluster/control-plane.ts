// The control plane of a local cluster: etcd, API server, controller manager, scheduler and CoreDNS on the host's side of the bridge.
// It knows no nodes.

import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { request } from "node:https";
import { join } from "node:path";
import type { Binaries } from "./binaries.ts";
import { componentKubeconfig, pkiFile } from "./certs.ts";
import { makeCgroup } from "./cgroups.ts";
import { etcdData } from "./control-disk.ts";
import { run, waitFor } from "./exec.ts";
import { ClusterError, type ClusterNames, clusterDomain } from "./names.ts";
import { logTail, startProcess } from "./processes.ts";
import type { ProcessRecord } from "./state.ts";
import { flags, type Program, supervisorScript } from "./supervisor.ts";

const readyTimeoutMs = 180_000;
const requestTimeoutMs = 2_000;

/** A dead node is NotReady after 12 s and its pods are given up 2 s later. */
const shortTimes = { monitorPeriod: "2s", gracePeriod: "12s", tolerationSeconds: 2 };
/** Kubernetes' own, which a control plane has whose requests are counted: of many nodes on a busy machine some are late. */
const usualTimes = { monitorPeriod: "5s", gracePeriod: "50s", tolerationSeconds: 300 };
const nodeTimes = (audited: readonly string[]) => (audited.length > 0 ? usualTimes : shortTimes);

/** The API server's record of what `users` ask of it, one JSON line a request: by it tests count requests. */
export const auditLog = (cluster: { readonly folder: string }): string => join(cluster.folder, "audit.log");
const auditMegabytesMax = 4096;

function auditFlags(cluster: ClusterNames, users: readonly string[]): Record<string, string | number> {
  if (users.length === 0) return {};
  const policy = join(cluster.folder, "audit-policy.json");
  const rules = [{ level: "Metadata", users }, { level: "None" }];
  writeFileSync(policy, JSON.stringify({ apiVersion: "audit.k8s.io/v1", kind: "Policy", omitStages: ["RequestReceived"], rules }));
  return { "audit-policy-file": policy, "audit-log-path": auditLog(cluster), "audit-log-maxsize": auditMegabytesMax };
}

function apiServer(cluster: ClusterNames, binaries: Binaries, audited: readonly string[]): Program {
  const pki = (file: string) => pkiFile(cluster, file);
  return {
    name: "kube-apiserver",
    command: [
      binaries["kube-apiserver"],
      ...flags({
        "etcd-servers": `http://${cluster.loopback}:2379`,
        "bind-address": cluster.hostAddress,
        "advertise-address": cluster.hostAddress,
        "secure-port": 6443,
        "service-cluster-ip-range": cluster.serviceCidr,
        "authorization-mode": "Node,RBAC",
        "enable-admission-plugins": "NodeRestriction",
        "allow-privileged": true,
        "anonymous-auth": true,
        "client-ca-file": pki("ca.crt"),
        "tls-cert-file": pki("apiserver.crt"),
        "tls-private-key-file": pki("apiserver.key"),
        "kubelet-certificate-authority": pki("ca.crt"),
        "kubelet-client-certificate": pki("apiserver-kubelet-client.crt"),
        "kubelet-client-key": pki("apiserver-kubelet-client.key"),
        "kubelet-preferred-address-types": "InternalIP,Hostname",
        "service-account-issuer": `https://kubernetes.default.svc.${clusterDomain}`,
        "service-account-key-file": pki("service-account.pub"),
        "service-account-signing-key-file": pki("service-account.key"),
        "requestheader-client-ca-file": pki("front-proxy-ca.crt"),
        "requestheader-allowed-names": "front-proxy-client",
        "requestheader-extra-headers-prefix": "X-Remote-Extra-",
        "requestheader-group-headers": "X-Remote-Group",
        "requestheader-username-headers": "X-Remote-User",
        "proxy-client-cert-file": pki("front-proxy-client.crt"),
        "proxy-client-key-file": pki("front-proxy-client.key"),
        // The host has no kube-proxy: webhooks and extension servers are dialled at their pods.
        "enable-aggregator-routing": true,
        "default-not-ready-toleration-seconds": nodeTimes(audited).tolerationSeconds,
        "default-unreachable-toleration-seconds": nodeTimes(audited).tolerationSeconds,
        profiling: false,
        ...auditFlags(cluster, audited),
      }),
    ],
  };
}

function etcd(cluster: ClusterNames, binaries: Binaries): Program {
  const peer = `http://${cluster.loopback}:2380`;
  const client = `http://${cluster.loopback}:2379`;
  const values = {
    name: "etcd",
    "data-dir": etcdData(cluster),
    "listen-client-urls": client,
    "advertise-client-urls": client,
    "listen-peer-urls": peer,
    "initial-advertise-peer-urls": peer,
    "initial-cluster": `etcd=${peer}`,
    // A cluster for tests is made anew after a power cut, so it need not wait for the disk.
    "unsafe-no-fsync": true,
    "log-level": "warn",
  };
  return { name: "etcd", command: [binaries.etcd, ...flags(values)] };
}

function controllers(cluster: ClusterNames, binaries: Binaries, audited: readonly string[]): Program[] {
  const { monitorPeriod, gracePeriod } = nodeTimes(audited);
  const common = (identity: string) => ({
    kubeconfig: componentKubeconfig(cluster, identity),
    "authentication-kubeconfig": componentKubeconfig(cluster, identity),
    "authorization-kubeconfig": componentKubeconfig(cluster, identity),
    "bind-address": cluster.hostAddress,
    "leader-elect": false,
    // The defaults, 20 and 50 a second, would be what a fleet of hundreds of objects waits for.
    ...{ "kube-api-qps": 200, "kube-api-burst": 400 },
    profiling: false,
  });
  const manager = {
    ...common("controller-manager"),
    "use-service-account-credentials": true,
    "service-account-private-key-file": pkiFile(cluster, "service-account.key"),
    "root-ca-file": pkiFile(cluster, "ca.crt"),
    "cluster-signing-cert-file": pkiFile(cluster, "ca.crt"),
    "cluster-signing-key-file": pkiFile(cluster, "ca.key"),
    "service-cluster-ip-range": cluster.serviceCidr,
    // Pod ranges follow from the node's index (names.ts), so that routes can be laid before the node registers.
    "allocate-node-cidrs": false,
    "node-monitor-period": monitorPeriod,
    "node-monitor-grace-period": gracePeriod,
    "horizontal-pod-autoscaler-sync-period": "5s",
  };
  return [
    { name: "kube-controller-manager", command: [binaries["kube-controller-manager"], ...flags(manager)] },
    { name: "kube-scheduler", command: [binaries["kube-scheduler"], ...flags(common("scheduler"))] },
  ];
}

/**
 * Names outside the cluster go where the host sends its own. Without a name server, or while it is away, the answer is a failure at once:
 * a pod that asks for a peer not born yet tries the name without a search domain last, and must not hang on that.
 */
function corefile(cluster: ClusterNames): string {
  const upstream = existsSync("/etc/resolv.conf") && /^nameserver\s/m.test(readFileSync("/etc/resolv.conf", "utf8"));
  return `.:53 {
  bind ${cluster.hostAddress}
  errors
  ready ${cluster.hostAddress}:8181
  kubernetes ${clusterDomain} in-addr.arpa {
    kubeconfig ${componentKubeconfig(cluster, "coredns")}
    pods insecure
    fallthrough in-addr.arpa
    ttl 2
  }
  cache 30 {
    disable success ${clusterDomain}
    disable denial ${clusterDomain}
  }
${upstream ? "  forward . /etc/resolv.conf {\n    health_check 2s\n    max_fails 1\n    failfast_all_unhealthy_upstreams\n  }\n" : ""}}
`;
}

const corednsAccess = `apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: { name: enodia:coredns }
rules:
  - apiGroups: [""]
    resources: [services, pods, namespaces, nodes]
    verbs: [get, list, watch]
  - apiGroups: [discovery.k8s.io]
    resources: [endpointslices]
    verbs: [list, watch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: { name: enodia:coredns }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: enodia:coredns }
subjects:
  - { apiGroup: rbac.authorization.k8s.io, kind: User, name: enodia:coredns }
`;

/** GET on the API server with the admin's certificate; undefined when it does not answer. */
function apiStatus(cluster: ClusterNames, path: string): Promise<number | undefined> {
  return new Promise((resolve) => {
    const file = (name: string) => readFileSync(pkiFile(cluster, name));
    const tls = { ca: file("ca.crt"), cert: file("admin.crt"), key: file("admin.key") };
    const call = request(`${cluster.server}${path}`, { ...tls, agent: false, timeout: requestTimeoutMs }, (answer) => {
      answer.resume();
      answer.on("end", () => resolve(answer.statusCode));
      answer.on("error", () => resolve(undefined));
    });
    call.on("timeout", () => call.destroy());
    call.on("error", () => resolve(undefined));
    call.end();
  });
}

export function startControlPlane(cluster: ClusterNames, binaries: Binaries, audited: readonly string[]): ProcessRecord {
  const logs = join(cluster.folder, "logs");
  const cgroup = `${cluster.cgroup}/control`;
  mkdirSync(logs, { recursive: true });
  makeCgroup(cgroup);
  const config = join(cluster.folder, "Corefile");
  writeFileSync(config, corefile(cluster));
  const programs = [
    etcd(cluster, binaries),
    apiServer(cluster, binaries, audited),
    ...controllers(cluster, binaries, audited),
    { name: "coredns", command: [binaries.coredns, "-conf", config] },
  ];
  const script = join(cluster.folder, "control-plane.sh");
  writeFileSync(script, supervisorScript({ logs, programs }), { mode: 0o700 });
  return startProcess({ role: "control plane", command: ["bash", script], cgroup, log: join(logs, "supervisor.log") });
}

/** Waits until the API server is ready, then grants CoreDNS its reading rights. */
export async function waitForControlPlane(cluster: ClusterNames, binaries: Binaries, signal?: AbortSignal): Promise<void> {
  const wait = async (what: string, program: string, check: () => Promise<boolean>) => {
    try {
      await waitFor(what, { timeoutMs: readyTimeoutMs, signal }, async () => ((await check()) ? true : undefined));
    } catch (cause) {
      const log = join(cluster.folder, "logs", `${program}.log`);
      throw new ClusterError(`${(cause as Error).message}; the end of ${log}:\n${logTail(log)}`);
    }
  };
  await wait("the API server to be ready", "kube-apiserver", async () => (await apiStatus(cluster, "/readyz")) === 200);
  await run(binaries.kubectl, ["--kubeconfig", cluster.kubeconfig, "apply", "-f", "-"], { input: corednsAccess, signal });
  await wait("CoreDNS to be ready", "coredns", () =>
    fetch(`http://${cluster.hostAddress}:8181/ready`, { signal: AbortSignal.timeout(requestTimeoutMs) }).then(
      (answer) => answer.ok,
      () => false,
    ),
  );
}
