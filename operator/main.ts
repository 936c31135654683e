// The operator: composes clients, informers, leader election, the deployment plane and the rebalance plane. The only file of
// this plane that reads the environment and constructs clients. Starts and works without NATS.
import { randomBytes } from "node:crypto";
import { hostname } from "node:os";
import { AppError } from "../crds/common.ts";
import packageJson from "../package.json" with { type: "json" };
import { createHealth, serveHealth } from "../runtime/observe/health.ts";
import { createLog, type Log } from "../runtime/observe/log.ts";
import { createMetrics, type Metrics } from "../runtime/observe/metrics.ts";
import { type OperatorConfig, readConfig } from "./config.ts";
import { Informers } from "./deployment/informers.ts";
import { recordStatus } from "./deployment/metrics.ts";
import { createDeploymentPlane } from "./deployment/plane.ts";
import { createKube } from "./kube/client.ts";
import { EventRecorder } from "./kube/events.ts";
import type { Kube, KubeObject } from "./kube/kube.ts";
import { fenced, LeaderElection } from "./kube/leader.ts";
import { createTransport, loadKubeConfig } from "./kube/transport.ts";
import { createRebalance } from "./rebalance/controller.ts";

const leaseName = "enodia-operator";
/** The API server may be away this long before the kubelet is asked to restart us. */
const silentMaxMs = 10 * 60_000;
const syncPollMs = 50;
const syncTimeoutMs = 120_000;
const healthCheckMs = 1_000;

async function main(): Promise<void> {
  const config = readConfig(process.env, process.argv.slice(2), `${hostname()}-${randomBytes(4).toString("hex")}`);
  const log = createLog({ level: config.logLevel, name: "operator", fields: { replica: config.identity } });
  const metrics = createMetrics({ process: "operator", version: packageJson.version });
  const kube = createKube(createTransport(loadKubeConfig(config.kubeconfig, config.context)));
  const informers = new Informers(config.watchNamespaces, { kube, onError: (err) => log.warn({ err }, "watch failed, starting again") });
  const health = createHealth({ informers: "not synced" });
  const server = await serveHealth({ health, metrics, probePort: config.probePort, metricsPort: config.metricsPort, log });
  informers.start();
  const checks = setInterval(() => checkInformers(informers, health, metrics), healthCheckMs);
  await synced(informers);
  health.ready("informers");
  const running = lead(config, { kube, informers, metrics, log });
  const signal = await new Promise<string>((resolve) => {
    for (const name of ["SIGTERM", "SIGINT"]) process.once(name, () => resolve(name));
  });
  log.info({ signal }, "stopping");
  clearInterval(checks);
  await running.stop();
  await Promise.all([informers.stop(), server.close()]);
}

interface Parts {
  readonly kube: Kube;
  readonly informers: Informers;
  readonly metrics: Metrics<"operator">;
  readonly log: Log;
}

/** Waits for the lease, then runs both planes until stopped. Losing the lease ends the process: the fence has already closed. */
function lead(config: OperatorConfig, { kube, informers, metrics, log }: Parts): { stop(): Promise<void> } {
  let stopPlanes: () => Promise<void> = async () => {};
  const election = new LeaderElection({
    kube,
    lease: { namespace: config.namespace, name: leaseName },
    identity: config.identity,
    onElected: () => {
      log.info({}, "leading");
      metrics.set("enodia_operator_leader", 1);
      stopPlanes = startPlanes(config, { kube: fenced(kube, () => election.isLeader), informers, metrics, log });
    },
    onLost: (reason) => {
      log.error({ reason }, "leadership lost, ending");
      process.exit(1);
    },
    onError: (err) => log.warn({ err }, "lease could not be written"),
  });
  metrics.set("enodia_operator_leader", 0);
  election.start();
  return {
    async stop() {
      await stopPlanes();
      await election.stop();
    },
  };
}

function startPlanes(config: OperatorConfig, { kube, informers, metrics, log }: Parts): () => Promise<void> {
  const events = new EventRecorder({ kube, reportingInstance: config.identity, onError: (err) => log.debug({ err }, "event not written") });
  const controller = "moedeployment";
  const plane = createDeploymentPlane({
    kube,
    informers,
    events,
    settings: config,
    observe: (result, seconds, error, key) => {
      metrics.add("enodia_operator_reconciles_total", 1, { controller, result });
      metrics.observe("enodia_operator_reconcile_duration_seconds", seconds, { controller });
      metrics.set("enodia_operator_queue_depth", plane.controller.queue.depth, { controller });
      if (!error) return;
      metrics.add("enodia_operator_queue_retries_total", 1, { controller });
      log.warn({ err: error, key }, "reconcile failed, trying again");
    },
  });
  const rebalance = createRebalance({ kube, deployments: plane.deployments, metrics, log });
  plane.connect(rebalance);
  trackDeployments(informers, metrics);
  metrics.onCollect(() => recordStatus(metrics, informers.list("moeDeployments")));
  plane.controller.start();
  return async () => {
    await plane.controller.stop();
    await rebalance.close();
    await events.flush();
  };
}

/** Counters start at zero with a deployment, its gauges go with it. */
function trackDeployments(informers: Informers, metrics: Metrics<"operator">): void {
  const labels = ({ metadata }: KubeObject) => ({ namespace: metadata.namespace ?? "", deployment: metadata.name });
  for (const object of informers.list("moeDeployments")) metrics.track(labels(object));
  informers.onChange("moeDeployments", (object, change) =>
    change === "delete" ? metrics.forget(labels(object)) : metrics.track(labels(object)),
  );
}

async function synced(informers: Informers): Promise<void> {
  const until = Date.now() + syncTimeoutMs;
  while (!informers.hasSynced) {
    if (Date.now() > until) {
      const missing = informers.all().filter((informer) => !informer.hasSynced);
      const kinds = [...new Set(missing.map((informer) => informer.resource.plural))].join(", ");
      throw new AppError(`no first list of ${kinds} within ${syncTimeoutMs / 1000} s: are the CRDs installed and the permissions given?`, {
        code: "NotSynced",
      });
    }
    await new Promise((resolve) => setTimeout(resolve, syncPollMs));
  }
}

function checkInformers(informers: Informers, health: ReturnType<typeof createHealth>, metrics: Metrics<"operator">): void {
  for (const informer of informers.all()) {
    const { kind } = informer.resource;
    metrics.set("enodia_operator_informer_synced", informer.hasSynced ? 1 : 0, { kind });
    if (informer.hasSynced)
      metrics.set("enodia_operator_informer_last_event_timestamp_seconds", (Date.now() - informer.silentMs) / 1000, { kind });
    if (informer.silentMs > silentMaxMs) health.dead(`nothing was heard of ${informer.resource.plural} for ${silentMaxMs / 60_000} min`);
  }
}

main().then(
  () => process.exit(0),
  (caught) => {
    const error = AppError.from(caught);
    process.stderr.write(`${JSON.stringify({ level: "fatal", code: error.code, message: error.message })}\n`);
    process.exit(1);
  },
);
