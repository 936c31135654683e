// A fleet: a real API server with its controllers and scheduler, a real NATS server, simulated nodes whose pods answer with production
// code, and the production operator as a process of its own with the rights of the chart. Deployments are made in it and watched.
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Informer } from "../../operator/kube/informer.ts";
import { type Kube, type KubeObject, resources } from "../../operator/kube/kube.ts";
import { type Bus, createBus } from "../../runtime/wire/nats.ts";
import { down } from "../cluster/cluster.ts";
import { auditLog } from "../cluster/control-plane.ts";
import { controlProcess } from "../cluster/control-process.ts";
import { stop, until } from "../harness/process.ts";
import { namespaceObjects } from "../harness/product.ts";
import { controlPlane } from "../integration/control-plane.ts";
import { accessObjects, operatorKubeconfig } from "../integration/operator-process.ts";
import { AuditLog } from "./audit.ts";
import { each, SimulatedNodes } from "./nodes.ts";
import { chartMemoryMiB, OperatorProcess, operatorNamespace, operatorUser } from "./operator-process.ts";
import { podStarter } from "./pods.ts";
import { cpuSecondsOf } from "./process-use.ts";
import { rankModel } from "./ranks.ts";

export const fleetName = "scale";
const namespace = "fleet";
const podsPerNode = 100;
/** Rows of each layer in a window of load. */
const rowsPerWindow = 10_000;
const expertBytes = 1 << 20;
const controlPrograms = ["kube-apiserver", "etcd", "kube-controller-manager", "kube-scheduler"];
const manager = { manager: "scale" };

interface FleetOptions {
  readonly deployments: number;
  readonly ranks: number;
  readonly layers: number;
  readonly experts: number;
  /** Where the operator leaves a profile of its CPU; unset: it takes none. */
  readonly profileFolder?: string | undefined;
  /** The limit of the operator's memory; the chart's when not given. */
  readonly memoryMiB?: number;
  readonly log: (line: string) => void;
}

export interface Fleet {
  readonly kube: Kube;
  readonly operator: OperatorProcess;
  readonly audit: AuditLog;
  readonly nodes: SimulatedNodes;
  /** Seconds of CPU so far of all that is no operator, by program. */
  othersCpu(): Readonly<Record<string, number>>;
  /** Makes deployments `from` to below `to`. */
  create(from: number, to: number): Promise<void>;
  scale(index: number, replicas: number): Promise<void>;
  /** The number of deployments that serve with so many ranks, as their status says. */
  serving(ranks: number): number;
  stop(): Promise<void>;
}

export async function startFleet(options: FleetOptions): Promise<Fleet> {
  const { deployments, ranks, layers, experts, memoryMiB = chartMemoryMiB, log } = options;
  const folder = mkdtempSync(join(tmpdir(), "enodia-scale-"));
  const closers: (() => unknown)[] = [() => rmSync(folder, { recursive: true, force: true })];
  const close = async (): Promise<void> => {
    for (const one of closers.splice(0).reverse()) await one();
  };
  try {
    closers.push(() => down(fleetName));
    const plane = await controlPlane(fleetName, 0, [operatorUser]);
    log("the API server is ready");
    const system = { apiVersion: "v1", kind: "Namespace", metadata: { name: operatorNamespace } };
    const access = accessObjects({ system: operatorNamespace, watched: [] });
    await plane.apply(system, ...namespaceObjects(namespace, folder), ...access);
    const { port, end } = await startNats(plane.cluster.binaries.natsServer);
    closers.push(end);
    const natsUrl = `nats://127.0.0.1:${port}`;
    const bus: Bus = createBus({ url: natsUrl, name: "simulated-ranks" });
    closers.push(() => bus.close());
    const model = rankModel({ layers, experts, bytes: expertBytes, budgetBytes: 2 * layers * experts * expertBytes });
    const { kube } = plane;
    const onError = (error: unknown) => log(`simulated nodes: ${error}`);
    const count = Math.ceil((deployments * (ranks + 2)) / podsPerNode) + 1;
    const network = `127.${64 + Math.floor(Math.random() * 100)}`;
    const nodes = new SimulatedNodes({ kube, count, podsPerNode, network, start: podStarter({ model, bus, rowsPerWindow }), onError });
    closers.push(() => nodes.stop());
    await nodes.start();
    log(`${count} nodes`);
    const kubeconfig = await operatorKubeconfig(plane, operatorNamespace, folder);
    const operator = await OperatorProcess.start({ kubeconfig, natsUrl, folder, profileFolder: options.profileFolder, memoryMiB });
    closers.push(() => operator.stop());
    log("the operator leads");
    const objects = new Informer(resources.moeDeployments, {}, { kube, onError });
    closers.push(() => objects.stop());
    objects.start();
    await objects.refresh();
    const pids = new Map(controlPrograms.map((program) => [program, controlProcess(fleetName, program)])).set(
      "simulated pods",
      process.pid,
    );
    const audit = new AuditLog(auditLog(plane.cluster));
    return {
      ...{ kube, operator, audit, nodes },
      othersCpu: () => Object.fromEntries([...pids].map(([program, pid]) => [program, cpuSecondsOf(pid)])),
      create: (from, to) => each(to - from, (index) => kube.create(resources.moeDeployments, deployment(from + index, ranks), manager)),
      scale: async (index, replicas) => {
        await kube.patch(resources.moeDeployments, { namespace, name: nameOf(index) }, { spec: { replicas } }, manager);
      },
      serving: (wanted) => objects.list((object) => serves(object, wanted)).length,
      stop: close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

const nameOf = (index: number): string => `moe-${index}`;

function deployment(index: number, replicas: number): KubeObject {
  const { apiVersion, kind } = resources.moeDeployments;
  const spec = { model: { uri: "pvc://models/simulated" }, replicas, elasticity: { settle: "1s" }, gateway: { replicas: 1 } };
  return { apiVersion, kind, metadata: { name: nameOf(index), namespace }, spec };
}

interface Status {
  readonly observedGeneration?: number;
  readonly readyReplicas?: number;
  readonly conditions?: readonly { readonly type: string; readonly status: string }[];
}

function serves({ metadata, status }: KubeObject, ranks: number): boolean {
  const { observedGeneration, readyReplicas, conditions = [] } = (status ?? {}) as Status;
  const holds = (type: string) => conditions.some((one) => one.type === type && one.status === "True");
  return observedGeneration === metadata.generation && readyReplicas === ranks && holds("Ready");
}

async function startNats(binary: string): Promise<{ readonly port: number; end(): Promise<void> }> {
  const server = createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  const child = spawn(binary, ["-a", "127.0.0.1", "-p", String(port)], { stdio: "ignore" });
  await until("NATS to listen", () => child.pid, { timeoutMs: 5_000 });
  return { port, end: () => stop(child) };
}
