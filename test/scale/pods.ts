// The processes in the pods of a simulated fleet: a worker pod is a rank of ranks.ts, a gateway pod the gateway's production answers to the
// operator without its HTTP side. Both listen on the pod's own loopback address, at the port and with the certificate of the real pod.
import { randomUUID } from "node:crypto";
import { gatewayRank, labels, ports } from "../../crds/common.ts";
import { workerProcess } from "../../crds/process.ts";
import { decodeTelemetryKeys, telemetrySecretEntries, telemetrySecretName } from "../../crds/telemetry-keys.ts";
import type { KubeObject } from "../../operator/kube/kube.ts";
import type { LoadCounters } from "../../runtime/engine/engine.ts";
import { LoadCounter } from "../../runtime/engine/pass/load-counter.ts";
import { controlHandlers } from "../../runtime/gateway/routing/control.ts";
import { Control } from "../../runtime/net/gen/enodia/runtime/v1/runtime_pb.js";
import { createServer } from "../../runtime/net/grpc.ts";
import type { Membership } from "../../runtime/net/mapping.ts";
import type { Bus } from "../../runtime/net/nats.ts";
import { fixedTls } from "../../runtime/net/tls.ts";
import { silentLog } from "../../runtime/observe/log.ts";
import type { PodProcess, PodStart, StartPod } from "./nodes.ts";
import { type RankModel, startRank } from "./ranks.ts";
import type { Tally } from "./tally.ts";

/** Ranks have connections to each other only while rows go over them, as in large worlds: a fleet's process has thousands of ranks. */
const streamIdleMs = 60_000;

interface PodsOptions {
  readonly model: RankModel;
  readonly bus: Bus;
  /** What each rank has routed whenever it reports its load. */
  readonly load: () => LoadCounters;
  /** Told of every rank that runs. */
  readonly tally: Tally;
}

export function podStarter(options: PodsOptions): StartPod {
  return (start) => (start.pod.metadata.labels?.[labels.component] === "gateway" ? startGateway(start) : startWorker(start, options));
}

async function startWorker(start: PodStart, { model, bus, load, tally }: PodsOptions): Promise<PodProcess> {
  const { pod, ip, secret } = start;
  const { namespace = "", name: podName, uid: podUid = "" } = pod.metadata;
  const deployment = pod.metadata.labels?.[labels.deployment] ?? "";
  const rank = Number(pod.metadata.labels?.[labels.rank]);
  const told = environmentOf(pod, "runtime");
  const signingKey = async () => {
    const keys = secret(telemetrySecretName(deployment))?.[telemetrySecretEntries.keys];
    return keys === undefined ? undefined : decodeTelemetryKeys(keys)[0];
  };
  const windowMs = Number(told(workerProcess.telemetryWindowMs.variable));
  const running = await startRank({
    ...{ namespace, deployment, rank, podName, podUid, model, host: ip, grpcPort: ports.grpc, tls: tlsOf(start) },
    deploymentUid: told(workerProcess.deploymentUid.variable),
    streamIdleMs,
    telemetry: { bus, prefix: told(workerProcess.natsPrefix.variable), windowMs, signingKey },
    ...{ counters: load, metrics: tally.metrics },
  });
  tally.runs(running);
  const stop = async (graceMs: number): Promise<void> => {
    try {
      if (graceMs > 0) await running.handOver(graceMs);
    } finally {
      tally.ended(running);
    }
    await (graceMs > 0 ? running.close() : running.kill());
  };
  return { ready: () => running.ready(), stop };
}

async function startGateway(start: PodStart): Promise<PodProcess> {
  const { pod, ip } = start;
  const { namespace = "", name: podName, uid: podUid = "" } = pod.metadata;
  const deployment = pod.metadata.labels?.[labels.deployment] ?? "";
  const deploymentUid = environmentOf(pod, "gateway")(workerProcess.deploymentUid.variable);
  const identity = { deploymentUid, podUid, rank: gatewayRank, bootId: randomUUID() };
  let membership: Membership | undefined;
  let draining = false;
  const notReady = () => (membership?.members.some(({ state }) => state === "active") ? [] : ["no worker is active"]);
  const server = createServer(tlsOf(start));
  const handlers = controlHandlers({
    ...{ identity, podName, namespace, deployment, log: silentLog, notReady },
    membership: () => membership,
    onMembership: (pushed) => {
      membership = pushed;
    },
    activeRequests: () => 0,
    draining: () => draining,
    ...{ idleMs: () => 0, wantsRanks: () => false, onEnter: () => () => {} },
  });
  server.add(Control, handlers);
  await server.listen(ip, ports.grpc);
  const stop = (): Promise<void> => {
    draining = true;
    return server.close(0);
  };
  return { ready: () => notReady().length === 0, stop };
}

type Env = { readonly name: string; readonly value?: string };
interface PodSpec {
  readonly containers: readonly { readonly name: string; readonly env?: readonly Env[] }[];
  readonly volumes: readonly { readonly name: string; readonly secret?: { readonly secretName: string } }[];
}

/** The variables of a container as its pod's spec gives them. */
function environmentOf(pod: KubeObject, container: string): (variable: string) => string {
  const { containers } = pod.spec as unknown as PodSpec;
  const env = containers.find(({ name }) => name === container)?.env ?? [];
  return (variable) => {
    const value = env.find(({ name }) => name === variable)?.value;
    if (value === undefined) throw new Error(`pod ${pod.metadata.name}: container ${container} has no value for ${variable}`);
    return value;
  };
}

/** The certificate that the pod mounts. */
function tlsOf({ pod, secret }: PodStart) {
  const { volumes } = pod.spec as unknown as PodSpec;
  const name = volumes.find((volume) => volume.name === "tls")?.secret?.secretName ?? "";
  const data = secret(name);
  const entry = (key: string): Buffer => Buffer.from(data?.[key] ?? "");
  return fixedTls({ cert: entry("tls.crt"), key: entry("tls.key"), ca: entry("ca.crt") });
}

/** The rows that a rank routes in each layer before it reports its load, by the weights of the layer's experts. */
export function loadOf({ info }: RankModel, rows: number, weight: (layer: number, expert: number) => number): LoadCounters {
  const counter = new LoadCounter(info);
  for (let layer = 0; layer < info.layers; layer++) {
    const weights = Array.from({ length: info.experts }, (_, expert) => weight(layer, expert));
    const total = weights.reduce((sum, each) => sum + each, 0);
    for (const [expert, each] of weights.entries()) counter.routed("decode", layer, expert, Math.round((rows * each) / total));
  }
  return counter.take();
}
