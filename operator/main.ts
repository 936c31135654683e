// The operator's process: the only file here that reads the environment and constructs clients. It starts and works without NATS.
import { randomBytes } from "node:crypto";
import { hostname } from "node:os";
import { AppError } from "../crds/common.ts";
import packageJson from "../package.json" with { type: "json" };
import { createHealth, type Health, serveHealth } from "../runtime/observe/health.ts";
import { createLog, type Log } from "../runtime/observe/log.ts";
import { createMetrics, type Metrics } from "../runtime/observe/runtime-metrics.ts";
import { createTracing, type Tracing } from "../runtime/observe/trace.ts";
import { type OperatorConfig, readConfig } from "./config.ts";
import { Rollbacks, recordStatus } from "./deployment/metrics.ts";
import { createDeploymentPlane, type DeploymentPlane } from "./deployment/plane.ts";
import { bearersRights } from "./kube/access-review.ts";
import { Claims } from "./kube/claims.ts";
import { createKube } from "./kube/client.ts";
import type { Observe } from "./kube/controller.ts";
import { EventRecorder } from "./kube/events.ts";
import { Informers } from "./kube/informers.ts";
import { type Kube, type KubeObject, type OwnerReference, resources } from "./kube/kube.ts";
import { fenced, LeaderElection } from "./kube/leader.ts";
import { ServerClock } from "./kube/server-clock.ts";
import { Terms } from "./kube/terms.ts";
import { createTransport, loadKubeConfig } from "./kube/transport.ts";
import { warningItems } from "./kube/warnings.ts";
import { type PageServer, servePage, tokenIn } from "./page/server.ts";
import { PageState } from "./page/state.ts";
import { WarningReader } from "./page/warnings.ts";
import { createRebalance } from "./rebalance/controller.ts";
import { JobMetrics } from "./training/metrics.ts";
import { createTrainingPlane } from "./training/plane.ts";

/** An informer that does nothing for this long hangs, so that the liveness probe fails. One that retries in vain does not. */
const stuckMaxMs = 10 * 60_000;
const healthCheckMs = 1_000;

async function main(): Promise<void> {
  const config = readConfig(process.env, process.argv.slice(2), `${hostname()}-${randomBytes(4).toString("hex")}`);
  const log = createLog({ level: config.logLevel, name: "operator", fields: { replica: config.identity } });
  const metrics = createMetrics({ process: "operator", version: packageJson.version });
  const { otlpEndpoint: endpoint, traceRatio: ratio } = config;
  const attributes = { "k8s.namespace.name": config.namespace, "k8s.pod.name": config.identity };
  const tracing = await createTracing({ service: "operator", endpoint, ratio, attributes });
  const api = loadKubeConfig(config.kubeconfig, config.context);
  const clock = new ServerClock();
  const transport = createTransport(api, { clock });
  const kube = createKube(transport);
  const informers = new Informers(config.watchNamespaces, config.namespace, {
    kube,
    onError: (err) => log.warn({ err }, "watch failed, starting again"),
  });
  const health = createHealth({ informers: "not synced" });
  const server = await serveHealth({ health, metrics, probePort: config.probePort, metricsPort: config.metricsPort, log });
  const now = () => clock.now().getTime();
  const warnings = new WarningReader({ read: (namespace, signal) => warningItems(transport, namespace, signal), now });
  const pageState = new PageState({ cache: informers, warnings, now });
  const page = await pageOf(config, { pageState, now, log, metrics, rightsOf: bearersRights(api) });
  informers.start();
  const watched = new WatchedNamespaces({ informers, health, metrics, log });
  const checks = setInterval(() => {
    checkInformers(informers, health, metrics, now());
    watched.check();
  }, healthCheckMs);
  const owner = () => leaseOwner(config.install, kube, log);
  const parts = { kube, owner, clock, informers, pageState, metrics, tracing, log };
  const terms = lead(config, createKube(createTransport(api, { keep: false, clock })), parts);
  for (const name of ["SIGTERM", "SIGINT"]) {
    process.once(name, (signal) => {
      log.info({ signal }, "stopping");
      terms.stop();
    });
  }
  await terms.run();
  clearInterval(checks);
  await Promise.all([informers.stop(), server.close(), page?.close(), tracing.close()]);
}

type PageParts = Pick<Parameters<typeof servePage>[0], "pageState" | "now" | "log" | "metrics" | "rightsOf">;

async function pageOf({ page }: OperatorConfig, { pageState, now, log, metrics, rightsOf }: PageParts): Promise<PageServer | undefined> {
  if (!page) return undefined;
  const { access, port, tokenFile, namespaces } = page;
  const served = await servePage({ pageState, now, access, port, token: () => tokenIn(tokenFile), rightsOf, namespaces, metrics, log });
  log.info({ port: served.port, access, namespaces }, "the page is served");
  return served;
}

interface Parts {
  readonly kube: Kube;
  readonly owner: () => Promise<OwnerReference | undefined>;
  readonly clock: ServerClock;
  readonly informers: Informers;
  readonly pageState: PageState;
  readonly metrics: Metrics<"operator">;
  readonly tracing: Tracing;
  readonly log: Log;
}

/** The chart's ClusterRole: of what goes with an uninstall the only object that may own leases in all namespaces. */
async function leaseOwner(name: string, kube: Kube, log: Log): Promise<OwnerReference | undefined> {
  try {
    const role = await kube.get(resources.clusterRoles, { namespace: "", name });
    return role && { apiVersion: role.apiVersion, kind: role.kind, name, uid: role.metadata.uid ?? "" };
  } catch (err) {
    log.debug({ err }, "its ClusterRole cannot be read: leases stay when it is uninstalled");
    return undefined;
  }
}

/** Runs the planes while this replica holds the lease. */
function lead(config: OperatorConfig, leases: Kube, parts: Parts): Terms {
  const { kube, owner, clock, informers, pageState, metrics, log } = parts;
  metrics.set("enodia_operator_leader", 0);
  return new Terms({
    elect: (on) =>
      new LeaderElection({
        kube: leases,
        lease: { namespace: config.namespace, name: `${config.install}-operator` },
        identity: config.identity,
        owner,
        date: clock.now,
        onError: (err) => log.warn({ err }, "lease could not be written"),
        onTaken: (holder) => pageState.follow(holder),
        ...on,
      }),
    begin: async (leading, over) => {
      log.info({}, "leading");
      metrics.set("enodia_operator_leader", 1);
      // The copy may predate an outage, or lack the former leader's last writes.
      await informers.refresh();
      if (over.aborted) return async () => void metrics.set("enodia_operator_leader", 0);
      const stopPlanes = startPlanes(config, { ...parts, kube: fenced(kube, leading) });
      return async () => {
        metrics.set("enodia_operator_leader", 0);
        await stopPlanes();
      };
    },
    onLost: (reason) => log.error({ reason }, "leadership lost, waiting for the lease"),
  });
}

/** Counts, times and traces reconciles, and logs failures. */
function observed(controller: string, depth: () => number, { metrics, tracing, log }: Pick<Parts, "metrics" | "tracing" | "log">): Observe {
  return (key) => {
    const span = tracing.start("operator.reconcile", { attributes: { "enodia.controller": controller, "enodia.object": key } });
    return (result, seconds, error) => {
      metrics.add("enodia_operator_reconciles_total", 1, { controller, result });
      metrics.observeTraced(span.traceparent, "enodia_operator_reconcile_duration_seconds", seconds, { controller });
      metrics.set("enodia_operator_queue_depth", depth(), { controller });
      span.set({ "enodia.result": result });
      if (error) {
        metrics.add("enodia_operator_queue_retries_total", 1, { controller });
        log.warn({ err: error, key, controller, traceId: span.traceId }, "reconcile failed, trying again");
        span.fail(error);
      }
      span.end();
    };
  };
}

function startPlanes(config: OperatorConfig, parts: Parts): () => Promise<void> {
  const { kube, owner, clock, informers, pageState, metrics, tracing, log } = parts;
  const steady = clock.steady();
  const events = new EventRecorder({
    kube,
    reportingInstance: config.identity,
    clock: steady,
    onError: (err) => log.debug({ err }, "event not written"),
  });
  const onError = (err: unknown) => log.warn({ err }, "claim of a namespace could not be written");
  const claims = new Claims({ kube, install: `${config.namespace}/${config.install}`, owner, date: clock.now, onError });
  const observe = (controller: string, depth: () => number) => observed(controller, depth, { metrics, tracing, log });
  const plane: DeploymentPlane<ReturnType<typeof createRebalance>> = createDeploymentPlane({
    kube,
    clock,
    informers,
    events,
    claims,
    settings: config,
    onError: (err) => log.warn({ err }, "Secrets of the operator's namespace could not be kept, trying again"),
    observe: observe("moedeployment", () => plane.controller.queue.depth),
    rebalance: (deployments) => createRebalance({ kube, clock: steady, deployments, metrics, tracing, log, logLevel: config.logLevel }),
  });
  const training = createTrainingPlane({
    kube,
    clock,
    informers,
    events,
    claims,
    settings: config,
    observe: observe("moetrainingjob", () => training.controller.queue.depth),
  });
  const { rebalance } = plane;
  const stopShowing = pageState.lead(rebalance);
  const stopTracking = trackDeployments(informers, metrics);
  const jobs = new JobMetrics(metrics);
  const stopJobs = metrics.onCollect(() => jobs.record(informers.list("moeTrainingJobs")));
  plane.controller.start();
  training.controller.start();
  return async () => {
    stopShowing();
    claims.close();
    await Promise.all([plane.stop(), training.stop()]);
    await rebalance.close();
    await events.flush();
    stopTracking();
    stopJobs();
    jobs.record([]);
  };
}

/** Counters start at zero with a deployment; its gauges go with it, or when another replica leads. */
function trackDeployments(informers: Informers, metrics: Metrics<"operator">): () => void {
  const labels = ({ metadata }: KubeObject) => ({ namespace: metadata.namespace ?? "", deployment: metadata.name });
  const rollbacks = new Rollbacks();
  const track = (object: KubeObject): void => {
    metrics.track(labels(object));
    const reason = rollbacks.see(object);
    if (reason !== undefined) metrics.add("enodia_rollbacks_total", 1, { ...labels(object), reason });
  };
  const forget = (object: KubeObject): void => {
    metrics.forget(labels(object));
    rollbacks.forget(object);
  };
  for (const object of informers.list("moeDeployments")) track(object);
  const stopListening = informers.onChange("moeDeployments", (object, change) => (change === "delete" ? forget(object) : track(object)));
  const stopCollecting = metrics.onCollect(() => recordStatus(metrics, informers.list("moeDeployments")));
  return () => {
    stopListening();
    stopCollecting();
    for (const object of informers.list("moeDeployments")) metrics.forget(labels(object));
  };
}

function checkInformers(informers: Informers, health: Health, metrics: Metrics<"operator">, now: number): void {
  for (const [kind, ofKind] of Map.groupBy(informers.held(), ({ resource }) => resource.kind)) {
    const synced = ofKind.every((informer) => informer.hasSynced);
    metrics.set("enodia_operator_informer_synced", synced ? 1 : 0, { kind });
    const silentMs = Math.max(...ofKind.map((informer) => informer.silentMs));
    if (synced) metrics.set("enodia_operator_informer_last_event_timestamp_seconds", (now - silentMs) / 1000, { kind });
    if (ofKind.some(({ stuckMs }) => stuckMs > stuckMaxMs)) health.dead(`the informer of ${kind} hangs for ${stuckMaxMs / 60_000} min`);
  }
  if (informers.seesNodes) health.ready("nodes");
  else health.warn("nodes", "they may not be read: cordons and silent nodes are not seen, and ranks leave when they are evicted");
  const training = informers.trainingTrouble();
  if (training === undefined) health.ready("training");
  else health.warn("training", `${training}; nothing is trained: the CRD of MoETrainingJobs has to be installed and the permissions given`);
  const trouble = informers.commonTrouble();
  if (trouble === undefined) health.ready("informers");
  else health.notReady("informers", `${trouble}; the CRDs have to be installed, the permissions given and the API server reachable`);
}

interface WatchedParts extends Pick<Parts, "informers" | "metrics" | "log"> {
  readonly health: Health;
}

/** Reports each watched namespace in /readyz, the log and a metric. None delays another. */
class WatchedNamespaces {
  readonly #parts: WatchedParts;
  readonly #troubled = new Set<string>();

  constructor(parts: WatchedParts) {
    this.#parts = parts;
  }

  check(): void {
    for (const namespace of this.#parts.informers.namespaces) this.#look(namespace);
  }

  #look(namespace: string): void {
    const { informers, health, metrics, log } = this.#parts;
    const trouble = informers.trouble(namespace);
    const check = `namespace ${namespace}`;
    metrics.set("enodia_operator_namespace_watched", trouble === undefined ? 1 : 0, { watched_namespace: namespace });
    if (trouble === undefined) {
      health.ready(check);
      if (this.#troubled.delete(namespace)) log.info({ namespace }, "the namespace can be worked in");
      return;
    }
    health.warn(check, trouble);
    if (this.#troubled.has(namespace)) return;
    this.#troubled.add(namespace);
    log.warn({ namespace, trouble }, "nothing is done in the namespace: it has to exist, and the operator has to be allowed to work in it");
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
