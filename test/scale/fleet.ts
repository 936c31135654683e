// A fleet: a real API server with its controllers and scheduler, a real NATS server, simulated nodes whose pods answer with production
// code, and the production operator as a process of its own with the rights of the chart. Deployments are made in it and watched.
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Informer } from "../../operator/kube/informer.ts";
import { type Kube, type KubeObject, resources } from "../../operator/kube/kube.ts";
import { type Bus, createBus } from "../../runtime/net/nats.ts";
import { down } from "../cluster/cluster.ts";
import { auditLog } from "../cluster/control-plane.ts";
import { controlProcess } from "../cluster/control-process.ts";
import { controlPlane } from "../integration/control-plane.ts";
import { accessObjects, operatorKubeconfig } from "../integration/operator-process.ts";
import { namespaceObjects } from "../kit/deployment/product.ts";
import { stop, until } from "../kit/processes/process.ts";
import { AuditLog } from "./audit.ts";
import { each, SimulatedNodes } from "./nodes.ts";
import { chartMemoryMiB, OperatorProcess, operatorNamespace, operatorUser } from "./operator-process.ts";
import { loadOf, podStarter } from "./pods.ts";
import { cpuSecondsOf } from "./process-use.ts";
import { rankModel } from "./ranks.ts";
import { Tally } from "./tally.ts";

/** Of the control plane of many deployments. */
export const fleetName = "scale";
export const namespace = "fleet";
const podsPerNode = 100;
/** A thousand deployments fill a disk of 768 MiB with objects and logs. */
const etcdMiBMax = 4_096;
/** Rows of each layer between two reports of load. */
const rowsPerReport = 10_000;
const expertBytes = 1 << 20;
const controlPrograms = ["kube-apiserver", "etcd", "kube-controller-manager", "kube-scheduler"];
const manager = { manager: "scale" };

export interface FleetOptions {
  /** Of its control plane; two fleets of different names may live at once. */
  readonly name: string;
  readonly deployments: number;
  readonly ranks: number;
  readonly layers: number;
  readonly experts: number;
  /** Where the operator leaves a profile of its CPU; unset: it takes none. */
  readonly profileFolder?: string | undefined;
  /** The limit of the operator's memory; the chart's when not given. */
  readonly memoryMiB?: number | undefined;
  readonly log: (line: string) => void;
  /** How it differs from a fleet of many deployments. */
  readonly shape?: {
    readonly nodes: number;
    readonly podsPerNode: number;
    /** Experts that a rank may hold. */
    readonly rankExperts: number;
    /** Fields of the deployments' spec beside the usual ones. */
    readonly spec: object;
  };
}

/** The weight of an expert in the load of its layer. */
export type Weight = (layer: number, expert: number) => number;

export interface Fleet {
  readonly kube: Kube;
  readonly operator: OperatorProcess;
  readonly audit: AuditLog;
  readonly nodes: SimulatedNodes;
  readonly tally: Tally;
  /** From the next report on ranks tell a load with these weights of each layer's experts. */
  setLoad(weight: Weight): void;
  /** Seconds of CPU so far of all that is no operator, by program. */
  othersCpu(): Readonly<Record<string, number>>;
  /** Makes deployments `from` to below `to`. */
  create(from: number, to: number): Promise<void>;
  scale(index: number, replicas: number): Promise<void>;
  /** The number of deployments that serve with so many ranks, as their status says. */
  serving(ranks: number): number;
  /** What its status says that is not well. */
  problems(index: number): string;
  stop(): Promise<void>;
}

/** How to end each fleet that lives. */
const living = new Set<() => Promise<void>>();

/** Ends what was begun, as when a person interrupts. */
export async function stopFleets(): Promise<void> {
  for (const stop of living) await stop();
}

export async function startFleet(options: FleetOptions): Promise<Fleet> {
  const { name, deployments, ranks, layers, experts, memoryMiB = chartMemoryMiB, log, shape } = options;
  const folder = mkdtempSync(join(tmpdir(), `enodia-fleet-${name}-`));
  const closers: (() => unknown)[] = [() => rmSync(folder, { recursive: true, force: true })];
  const close = async (): Promise<void> => {
    living.delete(close);
    for (const one of closers.splice(0).reverse()) await one();
  };
  living.add(close);
  try {
    closers.push(() => down(name));
    const plane = await controlPlane(name, 0, { audited: [operatorUser], etcdMiB: etcdMiBMax });
    log("the API server is ready");
    const system = { apiVersion: "v1", kind: "Namespace", metadata: { name: operatorNamespace } };
    const access = accessObjects({ system: operatorNamespace, watched: [] });
    await plane.apply(system, ...namespaceObjects(namespace, folder), ...access);
    const { port, end } = await startNats(plane.cluster.binaries.natsServer);
    closers.push(end);
    const natsUrl = `nats://127.0.0.1:${port}`;
    const bus: Bus = createBus({ url: natsUrl, name: "simulated-ranks" });
    closers.push(() => bus.close());
    const model = rankModel({
      layers,
      experts,
      bytes: expertBytes,
      budgetBytes: (shape?.rankExperts ?? 2 * layers * experts) * expertBytes,
    });
    const { kube } = plane;
    const onError = (error: unknown) => log(`simulated nodes: ${error}`);
    const room = shape ?? { nodes: Math.ceil((deployments * (ranks + 2)) / podsPerNode) + 1, podsPerNode };
    const network = `127.${64 + Math.floor(Math.random() * 100)}`;
    const tally = new Tally();
    closers.push(() => tally.stop());
    let load = loadOf(model, rowsPerReport, (_, expert) => 1 / (expert + 1));
    const start = podStarter({ model, bus: tally.counting(bus), load: () => load, tally });
    const nodes = new SimulatedNodes({ kube, count: room.nodes, podsPerNode: room.podsPerNode, network, start, onError });
    closers.push(() => nodes.stop());
    await nodes.start();
    log(`${room.nodes} nodes`);
    const kubeconfig = await operatorKubeconfig(plane, operatorNamespace, folder);
    const operator = await OperatorProcess.start({ name, kubeconfig, natsUrl, folder, profileFolder: options.profileFolder, memoryMiB });
    closers.push(() => operator.stop());
    log("the operator leads");
    const objects = new Informer(resources.moeDeployments, {}, { kube, onError });
    closers.push(() => objects.stop());
    objects.start();
    await objects.refresh();
    const pids = new Map(controlPrograms.map((program) => [program, controlProcess(name, program)])).set("simulated pods", process.pid);
    const audit = new AuditLog(auditLog(plane.cluster));
    return {
      ...{ kube, operator, audit, nodes, tally },
      othersCpu: () => Object.fromEntries([...pids].map(([program, pid]) => [program, cpuSecondsOf(pid)])),
      setLoad: (weight) => {
        load = loadOf(model, rowsPerReport, weight);
      },
      create: (from, to) =>
        each(to - from, (index) => kube.create(resources.moeDeployments, deployment(from + index, ranks, shape?.spec), manager)),
      scale: async (index, replicas) => {
        await kube.patch(resources.moeDeployments, { namespace, name: nameOf(index) }, { spec: { replicas } }, manager);
      },
      serving: (wanted) => objects.list((object) => serves(object, wanted)).length,
      problems: (index) => problemsOf(objects.get({ namespace, name: nameOf(index) })),
      stop: close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

export const nameOf = (index: number): string => `moe-${index}`;

function deployment(index: number, replicas: number, more: object = {}): KubeObject {
  const { apiVersion, kind } = resources.moeDeployments;
  const spec = { model: { uri: "pvc://models/simulated" }, replicas, elasticity: { settle: "1s" }, gateway: { replicas: 1 } };
  return { apiVersion, kind, metadata: { name: nameOf(index), namespace }, spec: Object.assign(spec, more) };
}

interface Status {
  readonly observedGeneration?: number;
  readonly readyReplicas?: number;
  readonly conditions?: readonly Record<"type" | "status" | "reason" | "message", string>[];
}

function serves({ metadata, status }: KubeObject, ranks: number): boolean {
  const { observedGeneration, readyReplicas, conditions = [] } = (status ?? {}) as Status;
  const holds = (type: string) => conditions.some((one) => one.type === type && one.status === "True");
  return observedGeneration === metadata.generation && readyReplicas === ranks && holds("Ready");
}

function problemsOf(object: KubeObject | undefined): string {
  const { conditions = [] } = (object?.status ?? {}) as Status;
  const amiss = conditions.filter(({ status }) => status !== "True").map(({ type, reason, message }) => `${type} ${reason}: ${message}`);
  return amiss.join("; ") || "nothing is amiss";
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
