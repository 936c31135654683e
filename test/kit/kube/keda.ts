// KEDA beside a local cluster: its operator and its metrics server as processes of this machine, on the cluster's bridge, with definitions
// from the same pinned module. Its ScaledObjects become HorizontalPodAutoscalers, which the cluster's own controller follows.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ensureBinaries } from "../../cluster/binaries.ts";
import { kubectlOf, type Log, root, type Target } from "../deployment/product.ts";
import { createTestCa } from "../network/certs.ts";
import { freePort } from "../network/free-port.ts";
import { execOk, stop, until } from "../processes/process.ts";

const namespace = "keda";
const module = "github.com/kedacore/keda/v2";
const readyTimeoutMs = 120_000;
const group = "external.metrics.k8s.io";

export interface Keda {
  /** The end of what both said. */
  said(): string;
  stop(): Promise<void>;
}

export async function startKeda(target: Target, log: Log): Promise<Keda> {
  const { kubeconfig, local } = target;
  if (!local || !kubeconfig) throw new Error("KEDA runs beside a local cluster");
  const binaries = await ensureBinaries(log, { only: ["keda-operator", "keda-adapter"] });
  const kubectl = kubectlOf(target, namespace);
  const definitions = await definitionsFolder();
  await kubectl.run(["apply", "--server-side", ...readdirSync(definitions).flatMap((file) => ["-f", join(definitions, file)])]);
  const host = new URL(local.server).hostname;
  const [metrics, probes, grpc, secure, own] = await Promise.all(Array.from({ length: 5 }, freePort));
  const ca = createTestCa();
  const { cert, key, ca: authority } = ca.server([`IP:${host}`, `DNS:keda-metrics-apiserver.${namespace}.svc`]);
  const folder = mkdtempSync(join(tmpdir(), "enodia-keda-"));
  for (const [file, bytes] of Object.entries({ "tls.crt": cert, "tls.key": key, "ca.crt": authority }))
    writeFileSync(join(folder, file), bytes);
  await kubectl.apply(...objectsOf(host, secure ?? 0, authority));

  let said = "";
  const start = (binary: string, args: readonly string[]) => {
    const env = {
      ...process.env,
      KUBECONFIG: kubeconfig,
      POD_NAMESPACE: namespace,
      KEDA_CLUSTER_OBJECT_NAMESPACE: namespace,
      WATCH_NAMESPACE: "",
    };
    const child = spawn(binary, args, { env, stdio: ["ignore", "pipe", "pipe"] });
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding("utf8").on("data", (chunk: string) => {
        said = `${said}${chunk}`.slice(-8_000);
      });
    return child;
  };
  const operator = start(binaries["keda-operator"], [
    ...[`--metrics-bind-address=${host}:${metrics}`, `--health-probe-bind-address=${host}:${probes}`],
    ...[`--metrics-service-bind-address=${host}:${grpc}`, `--cert-dir=${folder}`, "--zap-log-level=info"],
  ]);
  const adapter = start(binaries["keda-adapter"], [
    ...[`--bind-address=${host}`, `--secure-port=${secure}`, `--port=${own}`, `--metrics-service-address=${host}:${grpc}`],
    ...[`--cert-dir=${folder}`, `--client-ca-file=${join(folder, "ca.crt")}`],
    ...[`--tls-cert-file=${join(folder, "tls.crt")}`, `--tls-private-key-file=${join(folder, "tls.key")}`],
    ...["authentication", "authorization", "lister"].map((what) => `--${what}-kubeconfig=${kubeconfig}`),
  ]);
  const close = async (): Promise<void> => {
    await Promise.all([stop(operator), stop(adapter)]);
    rmSync(folder, { recursive: true, force: true });
    await kubectl.try(["delete", "apiservice", `v1beta1.${group}`, "--ignore-not-found"]);
  };
  try {
    const served = async () => ((await kubectl.try(["get", "--raw", `/apis/${group}/v1beta1`])).code === 0 ? true : undefined);
    const ended = [operator, adapter].map(async (child) => {
      const [code] = await once(child, "exit");
      throw new Error(`a program of KEDA ended with exit code ${code}`);
    });
    for (const end of ended) end.catch(() => undefined); // both end when the test does
    await Promise.race([until("KEDA's metrics to be served", served, { timeoutMs: readyTimeoutMs }), ...ended]);
  } catch (error) {
    await close();
    throw new Error(`${String(error)}\n${said}`);
  }
  return { said: () => said, stop: close };
}

/** The folder of the definitions of its objects, in the module that its programs are built from. */
async function definitionsFolder(): Promise<string> {
  const cwd = join(root, "test/cluster/gomod/keda");
  const folder = await execOk("go", ["list", "-mod=readonly", "-m", "-f", "{{.Dir}}", module], { cwd });
  return join(folder.trim(), "config/crd/bases");
}

/** Its namespace, and what leads requests for external metrics to the process on the bridge; the cluster's own autoscaler may ask. */
function objectsOf(host: string, port: number, authority: Buffer): object[] {
  const name = "keda-metrics-apiserver";
  const reader = "keda-external-metrics-reader";
  const rbac = "rbac.authorization.k8s.io";
  return [
    { apiVersion: "v1", kind: "Namespace", metadata: { name: namespace } },
    { apiVersion: "v1", kind: "Service", metadata: { name }, spec: { ports: [{ name: "https", port: 443, targetPort: port }] } },
    {
      apiVersion: "discovery.k8s.io/v1",
      kind: "EndpointSlice",
      metadata: { name, labels: { "kubernetes.io/service-name": name } },
      addressType: "IPv4",
      ports: [{ name: "https", port, protocol: "TCP" }],
      endpoints: [{ addresses: [host], conditions: { ready: true } }],
    },
    {
      apiVersion: "apiregistration.k8s.io/v1",
      kind: "APIService",
      metadata: { name: `v1beta1.${group}` },
      spec: {
        service: { name, namespace },
        group,
        version: "v1beta1",
        groupPriorityMinimum: 100,
        versionPriority: 100,
        caBundle: authority.toString("base64"),
      },
    },
    {
      apiVersion: `${rbac}/v1`,
      kind: "ClusterRole",
      metadata: { name: reader },
      rules: [{ apiGroups: [group], resources: ["*"], verbs: ["get", "list", "watch"] }],
    },
    {
      apiVersion: `${rbac}/v1`,
      kind: "ClusterRoleBinding",
      metadata: { name: reader },
      roleRef: { apiGroup: rbac, kind: "ClusterRole", name: reader },
      subjects: [{ kind: "ServiceAccount", name: "horizontal-pod-autoscaler", namespace: "kube-system" }],
    },
  ];
}
