// The rebalance plane: one loop per deployment with shared planner threads and NATS buses. It implements the deployment plane's port.
import { randomInt } from "node:crypto";
import type { LogLevel } from "../../crds/names.ts";
import { MassFailureGuard } from "../../runtime/net/failure-detector.ts";
import { grpcNetwork } from "../../runtime/net/grpc.ts";
import { createBus } from "../../runtime/net/nats.ts";
import type { Log } from "../../runtime/observe/log.ts";
import type { Metrics } from "../../runtime/observe/runtime-metrics.ts";
import type { Tracing } from "../../runtime/observe/trace.ts";
import type { Deployments, Rebalance, World } from "../deployment/ports.ts";
import type { Kube, Ref } from "../kube/kube.ts";
import type { Clock } from "../kube/workqueue.ts";
import { intents } from "./intents/index.ts";
import { threadPlanner } from "./intents/planner-thread.ts";
import { connectsMax, Semaphore, termsMax } from "./links/links.ts";
import { Telemetry } from "./links/load-messages.ts";
import { Session } from "./links/session.ts";
import { DeploymentLoop } from "./loop.ts";
import type { LoopPorts } from "./loop-ports.ts";
import type { LoadBus, LoadBusOptions } from "./ports.ts";
import { placementStore } from "./rollout/store.ts";
import type { PlacementView } from "./status/placement-view.ts";
import { forgetMetrics, recordLoad, recordRollout, recordView } from "./status/rebalance-metrics.ts";

export interface RebalanceOptions {
  readonly kube: Kube;
  /** The API server's time, by which stamps and ages of both planes agree. */
  readonly clock: Clock;
  readonly deployments: Deployments;
  readonly metrics: Metrics<"operator">;
  readonly tracing: Tracing;
  readonly log: Log;
  readonly logLevel: LogLevel;
}

interface RebalancePlane extends Rebalance {
  /** Undefined while nothing is known of the deployment. */
  placement(uid: string): PlacementView | undefined;
}

export function createRebalance(options: RebalanceOptions): RebalancePlane {
  const { clock, deployments, metrics, tracing, log } = options;
  const loops = new Map<string, { loop: DeploymentLoop; ref: Ref }>();
  const listeners = new Set<(ref: Ref) => void>();
  const telemetry = new Telemetry((bus) => openBus(bus, deployments));
  const planner = threadPlanner();
  const [connecting, guard] = [new Semaphore(connectsMax), new MassFailureGuard()];
  const ports: LoopPorts = {
    clock,
    term: randomInt(termsMax),
    store: placementStore(options.kube),
    openLink: (target) => new Session(target, { clock, network: grpcNetwork, connecting, guard, logLevel: options.logLevel }),
    planner,
    telemetry,
    metrics,
    tracing,
    log,
    identity: (ref, uid) => deployments.identity(ref, uid),
    nats: (ref, spec) => deployments.nats(ref, spec),
    telemetryKeys: (ref, uid) => deployments.telemetryKeys(ref, uid),
    event: (world, type, reason, message) => {
      const metadata = {
        name: world.ref.name,
        namespace: world.ref.namespace,
        uid: world.uid,
        generation: world.generation,
        resourceVersion: "",
      };
      deployments.event({ metadata }, type, reason, message);
    },
    onChange: (ref) => {
      for (const listener of listeners) listener(ref);
    },
    onRollout: (ref, running, done) => recordRollout(metrics, ref, running, done),
  };
  const stopCollecting = metrics.onCollect(() => {
    metrics.set("enodia_nats_connected", telemetry.connected ? 1 : 0);
    for (const { loop, ref } of loops.values()) {
      recordLoad(metrics, ref, loop.load());
      recordView(metrics, ref, loop.view());
    }
  });
  return {
    update: (world: World) => {
      const known = loops.get(world.uid);
      if (known) return known.loop.update(world);
      loops.set(world.uid, { loop: new DeploymentLoop(ports, world, intents()), ref: world.ref });
    },
    view: (uid) => loops.get(uid)?.loop.view(),
    placement: (uid) => loops.get(uid)?.loop.placement(),
    forget: (uid) => {
      const known = loops.get(uid);
      if (!known) return;
      known.loop.close();
      loops.delete(uid);
      // Gauges that were set since the object was deleted.
      forgetMetrics(metrics, known.ref);
    },
    onChange: (listener) => {
      listeners.add(listener);
    },
    close: async () => {
      stopCollecting();
      for (const { loop } of loops.values()) loop.close();
      loops.clear();
      await Promise.all([telemetry.close(), planner.close()]);
    },
  };
}

function openBus({ url, credentials }: LoadBusOptions, deployments: Deployments): LoadBus {
  return createBus({ url, name: "enodia-operator", access: credentials && (() => deployments.natsAccess(credentials)) });
}
