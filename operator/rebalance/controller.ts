// The rebalance plane as the operator composes it: one loop per deployment, shared planner thread and NATS buses, and the
// metrics of load and plans. Implements the port that the deployment plane calls.

import type { Log } from "../../runtime/observe/log.ts";
import type { Metrics } from "../../runtime/observe/metrics.ts";
import { grpcNetwork } from "../../runtime/wire/grpc.ts";
import { createBus } from "../../runtime/wire/nats.ts";
import type { Deployments, Rebalance, RebalanceView, World } from "../deployment/ports.ts";
import type { Kube, Ref } from "../kube/kube.ts";
import { systemClock } from "../kube/workqueue.ts";
import { threadPlanner } from "./intents/planner-thread.ts";
import type { Balance } from "./links/load-picture.ts";
import { Session } from "./links/session.ts";
import { Telemetry } from "./links/telemetry.ts";
import { DeploymentLoop, type LoadView } from "./loop.ts";
import type { LoopPorts, PlanEnd } from "./loop-ports.ts";
import type { LoadBus, LoadBusOptions } from "./ports.ts";
import { placementStore } from "./rollout/store.ts";

export interface RebalanceOptions {
  readonly kube: Kube;
  readonly deployments: Deployments;
  readonly metrics: Metrics<"operator">;
  readonly log: Log;
}

export function createRebalance(options: RebalanceOptions): Rebalance {
  const { deployments, metrics, log } = options;
  const loops = new Map<string, { loop: DeploymentLoop; ref: Ref }>();
  const listeners = new Set<(ref: Ref) => void>();
  const telemetry = new Telemetry(
    (bus) => openBus(bus, deployments),
    (reason) => metrics.add("enodia_telemetry_dropped_total", 1, { reason }),
  );
  const planner = threadPlanner();
  const ports: LoopPorts = {
    clock: systemClock,
    store: placementStore(options.kube),
    openLink: (target) => new Session(target, systemClock, grpcNetwork),
    planner,
    telemetry,
    metrics,
    log,
    identity: (ref, uid) => deployments.identity(ref, uid),
    natsUrl: (spec) => deployments.natsUrl(spec),
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
  metrics.onCollect(() => {
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
      loops.set(world.uid, { loop: new DeploymentLoop(ports, world), ref: world.ref });
    },
    view: (uid) => loops.get(uid)?.loop.view(),
    forget: (uid) => {
      const known = loops.get(uid);
      if (!known) return;
      known.loop.close();
      loops.delete(uid);
      // Gauges that it has set since the object was deleted.
      metrics.forget(labelsOf(known.ref));
    },
    onChange: (listener) => {
      listeners.add(listener);
    },
    close: async () => {
      for (const { loop } of loops.values()) loop.close();
      loops.clear();
      await Promise.all([telemetry.close(), planner.close()]);
    },
  };
}

function openBus({ url, secret }: LoadBusOptions, deployments: Deployments): LoadBus {
  return createBus({ url, name: "enodia-operator", credentials: secret && (() => deployments.natsCredentials(secret)) });
}

function labelsOf(ref: Ref) {
  return { namespace: ref.namespace, deployment: ref.name };
}

/** At every scrape, since the age grows also while no window closes. */
export function recordLoad(metrics: Pick<Metrics<"operator">, "set" | "unset">, ref: Ref, { balance, ageMs }: LoadView): void {
  const labels = labelsOf(ref);
  // Where no NATS server is named there is no load that could be old.
  if (ageMs === undefined) metrics.unset("enodia_telemetry_age_seconds", labels);
  else metrics.set("enodia_telemetry_age_seconds", ageMs / 1000, labels);
  if (balance) recordBalance(metrics, labels, balance);
}

type DeploymentLabels = ReturnType<typeof labelsOf>;

function recordBalance(metrics: Pick<Metrics<"operator">, "set">, labels: DeploymentLabels, balance: Balance): void {
  if (balance.measured) {
    metrics.set("enodia_expert_imbalance_ratio", balance.measured.worst, { ...labels, layer_agg: "max" });
    metrics.set("enodia_expert_imbalance_ratio", balance.measured.mean, { ...labels, layer_agg: "mean" });
  }
  for (const { phase, worst, mean } of balance.phases) {
    metrics.set("enodia_expert_phase_imbalance_ratio", worst, { ...labels, phase, layer_agg: "max" });
    metrics.set("enodia_expert_phase_imbalance_ratio", mean, { ...labels, phase, layer_agg: "mean" });
  }
  if (balance.bound !== undefined && Number.isFinite(balance.bound))
    metrics.set("enodia_expert_imbalance_bound_ratio", balance.bound, { ...labels, layer_agg: "max" });
  recordDecisions(metrics, labels, balance);
}

/** The main numbers of what was last decided; all of them are in the ExpertPlacement. */
function recordDecisions(metrics: Pick<Metrics<"operator">, "set">, labels: DeploymentLabels, balance: Balance): void {
  const { predicted, judged, outlook } = balance;
  if (predicted !== undefined) metrics.set("enodia_predicted_imbalance_ratio", predicted, { ...labels, plan: "committed" });
  if (judged) {
    const { gainSeconds, costSeconds } = judged.decision.numbers;
    metrics.set("enodia_predicted_imbalance_ratio", judged.after, { ...labels, plan: "proposed" });
    metrics.set("enodia_proposed_moves", judged.moves, labels);
    if (gainSeconds !== undefined) metrics.set("enodia_proposed_gain_seconds", gainSeconds, labels);
    if (costSeconds !== undefined) metrics.set("enodia_proposed_cost_seconds", costSeconds, labels);
  }
  if (!outlook) return;
  metrics.set("enodia_forecast_newest_weight_ratio", outlook.arm, labels);
  metrics.set("enodia_forecast_error_ratio", outlook.error, labels);
  metrics.set("enodia_forecast_noise_floor_ratio", outlook.noiseFloor, labels);
  metrics.set("enodia_forecast_changed", outlook.changed ? 1 : 0, labels);
}

function recordView(metrics: Metrics<"operator">, ref: Ref, view: RebalanceView | undefined): void {
  if (!view) return;
  const labels = labelsOf(ref);
  const epoch = view.placement?.epoch ?? 0;
  const active = view.members.filter((member) => member.active);
  metrics.set("enodia_placement_epoch", epoch, labels);
  metrics.set("enodia_placement_epoch_lag", Math.max(0, epoch - Math.min(epoch, ...active.map((member) => member.epoch))), labels);
  metrics.set("enodia_experts_unhosted", view.unhostedExperts, labels);
  metrics.set("enodia_experts_at_risk", view.expertsAtRisk, labels);
  const last = view.telemetry?.lastSampleTime;
  if (last) metrics.set("enodia_telemetry_last_sample_timestamp_seconds", Date.parse(last) / 1000, labels);
}

export function recordRollout(
  metrics: Metrics<"operator">,
  ref: Ref,
  running: { readonly deadlineMs: number } | undefined,
  done: PlanEnd | undefined,
): void {
  const labels = labelsOf(ref);
  metrics.set("enodia_rebalance_in_progress", running ? 1 : 0, labels);
  if (running) {
    metrics.set("enodia_rebalance_started_timestamp_seconds", Date.now() / 1000, labels);
    metrics.set("enodia_rebalance_deadline_timestamp_seconds", running.deadlineMs / 1000, labels);
  }
  if (!done) return;
  const { kind, result } = done;
  const reason = kind.charAt(0).toUpperCase() + kind.slice(1);
  const ended = result?.outcome.result ?? "superseded";
  const counted = ended === "superseded" ? "failed" : ended;
  metrics.add("enodia_rebalances_total", 1, { ...labels, result: counted, reason });
  if (!result) return;
  metrics.observe("enodia_rebalance_duration_seconds", result.durationMs / 1000, labels);
  if (counted === "committed") metrics.add("enodia_expert_moves_total", result.moves, labels);
  metrics.add("enodia_expert_move_bytes_total", result.bytes, labels);
}
