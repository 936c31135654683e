// The processes in the pods of a simulated fleet: a worker pod is a rank of ranks.ts, a gateway pod the gateway's production answers to the
// operator without its HTTP side. Both listen on the pod's own loopback address, at the port and with the certificate of the real pod.
import { randomUUID } from "node:crypto";
import { gatewayRank, labels, ports } from "../../crds/common.ts";
import { workerProcess } from "../../crds/process.ts";
import { decodeTelemetryKeys, telemetrySecretEntries, telemetrySecretName } from "../../crds/telemetry-keys.ts";
import type { KubeObject } from "../../operator/kube/kube.ts";
import type { LoadCounters } from "../../runtime/engine/engine.ts";
import { LoadCounter } from "../../runtime/engine/load-counter.ts";
import { controlHandlers } from "../../runtime/gateway/control.ts";
import { silentLog } from "../../runtime/observe/log.ts";
import { Control } from "../../runtime/wire/gen/enodia/runtime/v1/runtime_pb.js";
import { createServer } from "../../runtime/wire/grpc.ts";
import type { Membership } from "../../runtime/wire/mapping.ts";
import type { Bus } from "../../runtime/wire/nats.ts";
import { fixedTls } from "../../runtime/wire/tls.ts";
import type { PodProcess, PodStart, StartPod } from "./nodes.ts";
import { type RankModel, startRank } from "./ranks.ts";

interface PodsOptions {
  readonly model: RankModel;
  readonly bus: Bus;
  /** Rows that a rank routes in each layer in a window of load, to the first experts most. */
  readonly rowsPerWindow: number;
}

export function podStarter(options: PodsOptions): StartPod {
  return (start) => (start.pod.metadata.labels?.[labels.component] === "gateway" ? startGateway(start) : startWorker(start, options));
}

async function startWorker(start: PodStart, { model, bus, rowsPerWindow }: PodsOptions): Promise<PodProcess> {
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
    telemetry: { bus, prefix: told(workerProcess.natsPrefix.variable), windowMs, signingKey },
    counters: () => loadOf(model, rowsPerWindow),
  });
  const stop = async (graceMs: number): Promise<void> => {
    if (graceMs === 0) return running.kill();
    await running.handOver(graceMs);
    await running.close();
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

/** The load of one window: the same in every window and on every rank, each expert with less of it than the one before. */
function loadOf({ info }: RankModel, rows: number): LoadCounters {
  const counter = new LoadCounter(info);
  const total = Array.from({ length: info.experts }, (_, expert) => 1 / (expert + 1)).reduce((sum, share) => sum + share, 0);
  for (let layer = 0; layer < info.layers; layer++)
    for (let expert = 0; expert < info.experts; expert++)
      counter.routed("decode", layer, expert, Math.round(rows / ((expert + 1) * total)));
  return counter.take();
}
