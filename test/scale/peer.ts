// The manager of LeaderWorkerSet, pinned as a Go module, at its like work on the same API server and simulated nodes: groups of pods are
// made, found ready and told of. Its pods run nothing. Its StatefulSets are worked by Kubernetes' own controller, which is counted beside.
import { type ChildProcess, spawn } from "node:child_process";
import { createWriteStream, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { request } from "node:https";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Informer } from "../../operator/kube/informer.ts";
import type { KubeObject, Resource } from "../../operator/kube/kube.ts";
import { parseSamples, type Sample } from "../../operator/views/prometheus-text.ts";
import { ensureBinaries } from "../cluster/binaries.ts";
import { down } from "../cluster/cluster.ts";
import { auditLog } from "../cluster/control-plane.ts";
import { type ControlPlane, controlPlane } from "../integration/control-plane.ts";
import { operatorKubeconfig } from "../integration/operator-process.ts";
import { createTestCa } from "../kit/network/certs.ts";
import { freePort } from "../kit/network/free-port.ts";
import { type GoModule, moduleFolder } from "../kit/processes/go-module.ts";
import { stop, until } from "../kit/processes/process.ts";
import { AuditLog, totalOf, writesOf } from "./audit.ts";
import { fleetName } from "./fleet.ts";
import { countOf, histogramOf, quantile, since } from "./histogram.ts";
import { each, SimulatedNodes } from "./nodes.ts";
import { cpuSecondsOf, memoryOf } from "./process-use.ts";

/** Its manifests; the manager is built from the same (test/cluster/gomod/lws). */
const lws: GoModule = { module: "sigs.k8s.io/lws@v0.7.0", sum: "h1:qWfzX8+UBak+Hq0+m/PuE3uO0mp/3dmm5q/h/7z31A8=" };
const system = "lws-system";
const namespace = "fleet";
const user = `system:serviceaccount:${system}:operator`;
const statefulSets = "system:serviceaccount:kube-system:statefulset-controller";
const podsPerNode = 100;
const settleMs = 15_000;
const resource: Resource = {
  ...{ apiVersion: "leaderworkerset.x-k8s.io/v1", kind: "LeaderWorkerSet", plural: "leaderworkersets", namespaced: true },
};
const controllers = ["leaderworkerset", "pod"] as const;

interface PeerRun {
  readonly objects: number;
  readonly size: number;
  readonly steadySeconds: number;
  readonly log: (line: string) => void;
}

export async function runPeer({ objects, size, steadySeconds, log }: PeerRun): Promise<object> {
  const binaries = await ensureBinaries(log, { only: ["lws-manager"] });
  const folder = mkdtempSync(join(tmpdir(), "enodia-peer-"));
  const closers: (() => unknown)[] = [() => rmSync(folder, { recursive: true, force: true }), () => down(fleetName)];
  try {
    const plane = await controlPlane(fleetName, 0, { audited: [user, statefulSets] });
    const { kube } = plane;
    const onError = (error: unknown) => log(`simulated nodes: ${error}`);
    const count = Math.ceil((objects * size) / podsPerNode) + 1;
    const start = async () => ({ ready: () => true, stop: async () => {} });
    const nodes = new SimulatedNodes({ kube, count, podsPerNode, network: "127.200", start, onError });
    closers.push(() => nodes.stop());
    await nodes.start();
    const manager = await Manager.start(plane, binaries["lws-manager"], folder);
    closers.push(() => manager.stop());
    log("the manager of LeaderWorkerSet serves");
    const sets = new Informer(resource, {}, { kube, onError });
    closers.push(() => sets.stop());
    sets.start();
    await sets.refresh();
    const audit = new AuditLog(auditLog(plane.cluster));
    const [cpu, samples, started] = [manager.cpuSeconds(), await manager.metrics(), performance.now()];
    await each(objects, (index) => kube.create(resource, leaderWorkerSet(index, size), { manager: "scale" }));
    let said = -1;
    const ready = (): true | undefined => {
      const there = sets.list(isAvailable).length;
      if (there > said) log(`${there} of ${objects} are available`);
      said = Math.max(said, there);
      return there === objects || undefined;
    };
    await until("all sets to be available", ready, { timeoutMs: 300_000 + objects * size * 250, everyMs: 1_000 });
    const seconds = (performance.now() - started) / 1000;
    const cpuSeconds = manager.cpuSeconds() - cpu;
    const { [user]: own, [statefulSets]: theirs } = Object.fromEntries(audit.takeAll([user, statefulSets]));
    const after = await manager.metrics();
    await new Promise((resolve) => setTimeout(resolve, settleMs));
    audit.takeAll([]);
    const idleCpu = manager.cpuSeconds();
    await new Promise((resolve) => setTimeout(resolve, steadySeconds * 1000));
    const idle = audit.takeAll([user]).get(user);
    const per = (value: number) => Number((value / objects).toFixed(1));
    const timed = controllers.map((controller) => {
      const name = "controller_runtime_reconcile_time_seconds";
      const spent = since(histogramOf(samples, name, { controller }), histogramOf(after, name, { controller }));
      const ms = (q: number) => Math.round(1000 * (quantile(spent, q) ?? Number.NaN));
      return [controller, { perObject: per(countOf(spent)), p50Ms: ms(0.5), p99Ms: ms(0.99) }] as const;
    });
    return {
      ...{ peer: "LeaderWorkerSet", objects, size, convergeSeconds: Number(seconds.toFixed(1)) },
      convergeCpuSeconds: Number(cpuSeconds.toFixed(1)),
      writesPerObject: per(totalOf(writesOf(own ?? new Map()))),
      readsPerObject: per(totalOf(own ?? new Map()) - totalOf(writesOf(own ?? new Map()))),
      statefulSetWritesPerObject: per(totalOf(writesOf(theirs ?? new Map()))),
      reconciles: Object.fromEntries(timed),
      steadyWritesPerSecond: Number((totalOf(writesOf(idle ?? new Map())) / steadySeconds).toFixed(2)),
      steadyCores: Number(((manager.cpuSeconds() - idleCpu) / steadySeconds).toFixed(3)),
      ...{ rssMiB: Math.round(manager.memory().rss), peakMiB: Math.round(manager.memory().peak) },
    };
  } finally {
    for (const close of closers.reverse()) await close();
  }
}

class Manager {
  readonly #child: ChildProcess;
  readonly #port: number;
  readonly #token: string;

  private constructor(child: ChildProcess, port: number, token: string) {
    this.#child = child;
    this.#port = port;
    this.#token = token;
  }

  /** Installs definitions, rights and webhooks, starts the manager, and returns when it answers. */
  static async start(plane: ControlPlane, binary: string, folder: string): Promise<Manager> {
    const { kubectl } = plane;
    const config = join(await moduleFolder(lws), "config");
    await plane.apply({ apiVersion: "v1", kind: "Namespace", metadata: { name: system } }, ...rights());
    await plane.apply({ apiVersion: "v1", kind: "Namespace", metadata: { name: namespace } });
    await kubectl("apply", "--server-side", "-f", join(config, "crd/bases"), "-f", join(config, "rbac/role.yaml"));
    await kubectl("wait", "--for=condition=Established", `crd/${resource.plural}.leaderworkerset.x-k8s.io`, "--timeout=60s");
    const [webhookPort, port, probePort] = await Promise.all([freePort(), freePort(), freePort()]);
    const { cert, key, ca } = createTestCa().server(["DNS:localhost", "IP:127.0.0.1"]);
    writeFileSync(join(folder, "tls.crt"), cert);
    writeFileSync(join(folder, "tls.key"), key);
    const configuration = {
      ...{ apiVersion: "config.lws.x-k8s.io/v1alpha1", kind: "Configuration", leaderElection: { leaderElect: false } },
      ...{ internalCertManagement: { enable: false }, webhook: { host: "127.0.0.1", port: webhookPort, certDir: folder } },
      ...{ metrics: { bindAddress: `127.0.0.1:${port}` }, health: { healthProbeBindAddress: `127.0.0.1:${probePort}` } },
    };
    const file = join(folder, "manager.json");
    writeFileSync(file, JSON.stringify(configuration));
    const kubeconfig = await operatorKubeconfig(plane, system, folder);
    const env = { PATH: process.env.PATH, HOME: folder, KUBECONFIG: kubeconfig, POD_NAMESPACE: system };
    const child = spawn(binary, ["--config", file, "--zap-log-level=error"], { env, stdio: ["ignore", "pipe", "pipe"] });
    const log = createWriteStream(join(folder, "manager.log"));
    child.stdout.pipe(log, { end: false });
    child.stderr.pipe(log, { end: false });
    const manager = new Manager(child, port, (await kubectl("-n", system, "create", "token", "operator")).trim());
    await until("the manager to answer", () => manager.metrics(), { timeoutMs: 120_000 });
    await plane.apply(...webhooks(webhookPort, ca.toString("base64")));
    return manager;
  }

  metrics(): Promise<readonly Sample[]> {
    if (this.#child.exitCode !== null) throw new Error(`the manager has ended with exit code ${this.#child.exitCode}`);
    const headers = { authorization: `Bearer ${this.#token}` };
    return new Promise((resolve, reject) => {
      // Its certificate for metrics is its own, made at its start.
      const options = { host: "127.0.0.1", port: this.#port, path: "/metrics", headers, rejectUnauthorized: false, timeout: 30_000 };
      const call = request(options, async (answer) => {
        const chunks: Buffer[] = [];
        for await (const chunk of answer as AsyncIterable<Buffer>) chunks.push(chunk);
        if (answer.statusCode === 200) resolve(parseSamples(Buffer.concat(chunks).toString()));
        else reject(new Error(`metrics of the manager: ${answer.statusCode}`));
      });
      call.on("error", reject);
      call.end();
    });
  }

  cpuSeconds(): number {
    return cpuSecondsOf(this.#child.pid ?? 0);
  }
  memory() {
    return memoryOf(this.#child.pid ?? 0);
  }
  stop(): Promise<void> {
    return stop(this.#child, 20_000);
  }
}

/** Its account with the role that the module has for it, and what it needs to judge those who read its metrics. */
function rights(): object[] {
  const apiVersion = "rbac.authorization.k8s.io/v1";
  const subjects = [{ kind: "ServiceAccount", name: "operator", namespace: system }];
  const rules = [
    { apiGroups: ["authentication.k8s.io"], resources: ["tokenreviews"], verbs: ["create"] },
    { apiGroups: ["authorization.k8s.io"], resources: ["subjectaccessreviews"], verbs: ["create"] },
    { nonResourceURLs: ["/metrics"], verbs: ["get"] },
  ];
  const bound = (name: string) => {
    const roleRef = { apiGroup: "rbac.authorization.k8s.io", kind: "ClusterRole", name };
    return { apiVersion, kind: "ClusterRoleBinding", metadata: { name: `lws-${name}` }, roleRef, subjects };
  };
  return [
    { apiVersion: "v1", kind: "ServiceAccount", metadata: { name: "operator", namespace: system } },
    { apiVersion, kind: "ClusterRole", metadata: { name: "metrics" }, rules },
    ...[bound("manager-role"), bound("metrics")],
  ];
}

/** As the module's manifests have them, at an address of this machine. */
function webhooks(port: number, caBundle: string): object[] {
  const pods = { apiGroups: [""], apiVersions: ["v1"], resources: ["pods"] };
  const sets = { apiGroups: ["leaderworkerset.x-k8s.io"], apiVersions: ["v1"], resources: [resource.plural] };
  const objectSelector = { matchExpressions: [{ key: "leaderworkerset.sigs.k8s.io/name", operator: "Exists" }] };
  const hook = (name: string, path: string, rule: object, more: object = {}) =>
    Object.assign({ name, admissionReviewVersions: ["v1"], sideEffects: "None", failurePolicy: "Fail" }, more, {
      clientConfig: { url: `https://localhost:${port}${path}`, caBundle },
      rules: [Object.assign({ operations: ["CREATE", "UPDATE"] }, rule)],
    });
  const kinds = { Mutating: "mutate", Validating: "validate" } as const;
  return Object.entries(kinds).map(([kind, verb]) => ({
    apiVersion: "admissionregistration.k8s.io/v1",
    kind: `${kind}WebhookConfiguration`,
    metadata: { name: `lws-${verb}` },
    webhooks: [
      hook(`${verb}leaderworkerset.kb.io`, `/${verb}-leaderworkerset-x-k8s-io-v1-leaderworkerset`, sets),
      hook(`${verb}pod.kb.io`, `/${verb}--v1-pod`, pods, { objectSelector }),
    ],
  }));
}

function leaderWorkerSet(index: number, size: number): KubeObject {
  const { apiVersion, kind } = resource;
  const workerTemplate = { spec: { containers: [{ name: "runtime", image: "simulated", resources: { requests: { cpu: "1" } } }] } };
  return {
    ...{ apiVersion, kind, metadata: { name: `lws-${index}`, namespace } },
    spec: { replicas: 1, leaderWorkerTemplate: { size, workerTemplate } },
  };
}

function isAvailable({ status }: KubeObject): boolean {
  const { conditions = [] } = (status ?? {}) as { conditions?: readonly { readonly type: string; readonly status: string }[] };
  return conditions.some((one) => one.type === "Available" && one.status === "True");
}
