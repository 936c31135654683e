// 1,000 small deployments on one operator: this thread does what its rebalance plane does for each of them once per 15 s window
// (decode the ranks' load messages, close the window, forecast, both questions, the new placement), the plans are made on the one
// planner thread. In real time, with the delay that this thread's event loop sees meanwhile.
import { monitorEventLoopDelay, performance } from "node:perf_hooks";
import { setTimeout as sleep } from "node:timers/promises";
import { parseMoEDeployment } from "../../crds/moe-deployment.ts";
import type { LayerPlan, PlacementPlan } from "../../crds/plan.ts";
import { decodeLoad, encodeLoad } from "../../crds/telemetry.ts";
import type { ExpectedRank } from "../../operator/planner/load/windows.ts";
import { rankSpecs } from "../../operator/planner/offline/simulate.ts";
import { type Trace, windowOf } from "../../operator/planner/offline/traces.ts";
import { generateTrace, presets } from "../../operator/planner/offline/traces-generate.ts";
import { planFresh } from "../../operator/planner/policies/incremental.ts";
import { type Planner, threadPlanner } from "../../operator/rebalance/intents/planner-thread.ts";
import { type LoadFacts, LoadState } from "../../operator/rebalance/load/load-state.ts";
import { inputOf, quantile, type Row } from "./planner-kit.ts";

const deployments = 1000;
const windowMs = 15_000;
const windows = 2;
const delayMs = 20;
const cluster = { ranks: 8, slotsTotal: 32 };
/** Different loads; each is that of many deployments. */
const traces = 20;

const spec = parseMoEDeployment({
  metadata: { name: "moe", namespace: "ns", uid: "uid" },
  spec: {
    model: { uri: "pvc://models/moe" },
    replicas: cluster.ranks,
    rebalancing: { trigger: { window: "15s" }, interval: "15s" },
  },
}).spec;
const expected = Array.from({ length: cluster.ranks }, (_, rank): ExpectedRank => ({ rank, bootId: "boot", clockAheadMs: 0, speed: 1 }));

class Deployment {
  readonly #trace: Trace;
  readonly #load: LoadState;
  #plan: PlacementPlan;
  /** Steps of this deployment that changed its placement. */
  acted = 0;

  constructor(trace: Trace, layers: readonly LayerPlan[], now: number) {
    this.#trace = trace;
    this.#load = new LoadState(inputOf(trace, 0, cluster).shape, "uid", now);
    this.#plan = planOf(layers, 1);
  }

  /** The window's messages, one per rank, as they come from NATS; what ranks do is not this thread's work. */
  messages(window: number, end: number): Uint8Array[] {
    const { layers, experts } = this.#trace;
    const routed = windowOf(this.#trace, window % this.#trace.windows).map((count) => Math.floor(count / cluster.ranks));
    const times = { seq: window, windowStart: end - windowMs, windowEnd: end };
    const bare = { v: 1, deploymentUID: "uid", bootId: "boot", phase: "decode", layers, experts, routed, served: routed } as const;
    return expected.map(({ rank }) => new TextEncoder().encode(encodeLoad({ ...bare, ...times, rank })));
  }

  /** Milliseconds that its plan took, waiting included. It is planned for whatever the first question answers. */
  async replan(planner: Planner, messages: readonly Uint8Array[], now: number): Promise<number> {
    const load = this.#load;
    for (const bytes of messages) load.accept(decodeLoad(bytes), expected, now);
    const facts = this.#facts();
    load.closeIfDue(facts, now);
    load.ask(facts, now);
    const input = load.input(facts);
    const started = performance.now();
    const output = await planner.plan(spec.rebalancing.policy, input);
    const ms = performance.now() - started;
    if (load.judge(input, output, spec, now).decision.act) {
      this.#plan = planOf(output.layers, this.#plan.epoch + 1);
      load.committed(input, this.#plan.layers, now, spec.rebalancing.trigger);
      this.acted++;
    }
    return ms;
  }

  #facts(): LoadFacts {
    const world = { synced: true };
    return { ...world, spec, expected, ranks: rankSpecs(cluster), hardware: [], plan: this.#plan };
  }
}

function planOf(layers: readonly LayerPlan[], epoch: number): PlacementPlan {
  const placed = layers.map((layer, l) => ({ ...layer, layer: l, epoch }));
  return { deploymentUid: "uid", epoch, parentEpoch: epoch - 1, planHash: "", modelDigest: "", layers: placed };
}

export async function manyDeployments(seed: number): Promise<Row[]> {
  const model = { ...presets.mixtral_32x8, layers: 16, windows: windows + 2, selections: 20_000 };
  const loads = Array.from({ length: traces }, (_, i) => generateTrace(`deployment-${i}`, model, 1000 * seed + i));
  const first = loads.map((trace) => planFresh(inputOf(trace, 0, cluster, { effort: "fast" })).layers);
  const made = (): Deployment[] =>
    Array.from({ length: deployments }, (_, i) => new Deployment(loads[i % traces] as Trace, first[i % traces] as readonly LayerPlan[], 0));
  const planner = threadPlanner();
  try {
    await planner.plan("incremental", inputOf(loads[0] as Trace, 0, cluster)); // the thread is up
    return [await spread(planner, made()), await atOnce(planner, made())];
  } finally {
    await planner.close();
  }
}

/** Windows end one after another, as those of deployments that began at different times do. */
async function spread(planner: Planner, all: readonly Deployment[]): Promise<Row> {
  const waits: number[] = [];
  let late = 0;
  const delay = monitorEventLoopDelay({ resolution: 1 });
  const before = performance.eventLoopUtilization();
  const from = performance.now();
  for (let w = 0; w < windows; w++) {
    const open: Promise<number>[] = [];
    const sent = all.map((deployment) => deployment.messages(w + 1, (w + 1) * windowMs));
    delay.enable();
    const began = performance.now();
    for (const [i, deployment] of all.entries()) {
      await sleep(Math.max(0, began + (i * windowMs) / all.length - performance.now()));
      open.push(deployment.replan(planner, sent[i] as Uint8Array[], (w + 1) * windowMs));
    }
    waits.push(...(await Promise.all(open)));
    delay.disable();
    if (performance.now() - began > windowMs + delayMs) late++;
  }
  const busy = performance.eventLoopUtilization(before).utilization;
  const seconds = (performance.now() - from) / 1000;
  const p99 = percentile(delay, 99);
  return {
    row: "many",
    what: `${all.length} deployments of 16 layers x 8 experts x 8 ranks, each replanned once per ${windowMs / 1000} s window, ${windows} windows in real time; plans on one thread, all else here`,
    measured: `${waits.length} plans in ${seconds.toFixed(1)} s, from request to plan p50 ${quantile(waits, 0.5).toFixed(1)} ms, p99 ${quantile(waits, 0.99).toFixed(1)} ms, ${all.reduce((n, { acted }) => n + acted, 0)} carried out, ${late} windows late; event-loop delay p50 ${percentile(delay, 50).toFixed(1)} ms, p99 ${p99.toFixed(1)} ms, most ${(delay.max / 1e6).toFixed(1)} ms; this thread ${(100 * busy).toFixed(0)}% busy`,
    required: `no window late, event-loop delay p99 <= ${delayMs} ms`,
    ok: late === 0 && p99 <= delayMs,
  };
}

/** The worst case: all windows end together, and this thread takes them one after another, yielding in between as I/O does. */
async function atOnce(planner: Planner, all: readonly Deployment[]): Promise<Row> {
  const sent = all.map((deployment) => deployment.messages(1, windowMs));
  const delay = monitorEventLoopDelay({ resolution: 1 });
  delay.enable();
  const from = performance.now();
  const open: Promise<number>[] = [];
  for (const [i, deployment] of all.entries()) {
    open.push(deployment.replan(planner, sent[i] as Uint8Array[], windowMs));
    await new Promise(setImmediate);
  }
  await Promise.all(open);
  const seconds = (performance.now() - from) / 1000;
  delay.disable();
  const p99 = percentile(delay, 99);
  return {
    row: "many at once",
    what: "the same deployments, all windows ending at the same moment",
    measured: `${seconds.toFixed(1)} s for all; event-loop delay p50 ${percentile(delay, 50).toFixed(1)} ms, p99 ${p99.toFixed(1)} ms`,
    required: `<= ${windowMs / 1000} s, p99 <= ${delayMs} ms`,
    ok: seconds <= windowMs / 1000 && p99 <= delayMs,
  };
}

const percentile = (delay: ReturnType<typeof monitorEventLoopDelay>, p: number): number => delay.percentile(p) / 1e6;
