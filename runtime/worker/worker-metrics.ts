// A worker's numbers for its status and for Prometheus.
import { type PredictorName, prefetchResults } from "../../crds/names.ts";
import { stepKinds } from "../../crds/telemetry.ts";
import type { Engine, EngineInfo, EngineStats, KvTierStats } from "../engine/engine.ts";
import type { Misses } from "../experts/on-demand.ts";
import type { Peers } from "../experts/peers.ts";
import type { Prefetched } from "../experts/prefetch-loads.ts";
import type { Health } from "../observe/health.ts";
import type { Metrics } from "../observe/runtime-metrics.ts";
import type { WorkerVitals } from "./control.ts";
import type { WorkerExperts } from "./experts.ts";
import type { Leaving } from "./leaving.ts";
import type { ServiceRecord } from "./service-record.ts";

const statsEveryMs = 1_000;

export interface VitalsOptions {
  readonly engine: Engine;
  readonly info: EngineInfo;
  readonly experts: WorkerExperts;
  readonly peers: Peers;
  readonly metrics: Metrics<"worker">;
  readonly budgetBytes: number;
  readonly leaving: Pick<Leaving, "draining" | "ending">;
  readonly record: ServiceRecord;
  readonly health: Health;
}

/** Polls engine totals, since the engine is another thread. */
export function watchVitals(options: VitalsOptions): () => WorkerVitals {
  const { engine, info, experts, peers, metrics } = options;
  let last: EngineStats | undefined;
  let missed: Misses & { readonly hits: number } = { loads: 0, bytes: 0, seconds: 0, hits: 0 };
  let ahead: Prefetched = { useful: 0, late: 0, wasted: 0, bytes: 0 };
  const poll = setInterval(() => {
    engine.stats().then(
      (stats) => {
        count(metrics, stats, last);
        last = stats;
      },
      (error) => {
        clearInterval(poll);
        options.health.dead(`the engine ended: ${error instanceof Error ? error.message : String(error)}`);
      },
    );
  }, statsEveryMs);
  poll.unref();
  metrics.onCollect(() => {
    const load = engine.load();
    metrics.set("enodia_worker_requests_active", last?.slotsUsed ?? 0);
    metrics.set("enodia_worker_queue_requests", last?.queuedRequests ?? 0);
    metrics.set("enodia_worker_queue_tokens", load.queuedTokens);
    metrics.set("enodia_worker_kv_slots", last?.slotsUsed ?? 0, { state: "used" });
    metrics.set("enodia_worker_kv_slots", last?.slotsKept ?? 0, { state: "cached" });
    metrics.set("enodia_worker_kv_slots", info.kvSlots - (last?.slotsUsed ?? 0) - (last?.slotsKept ?? 0), { state: "free" });
    const blocks = { used: last?.blocksUsed ?? 0, cached: last?.blocksKept ?? 0 };
    metrics.set("enodia_worker_kv_blocks", blocks.used, { state: "used" });
    metrics.set("enodia_worker_kv_blocks", blocks.cached, { state: "cached" });
    metrics.set("enodia_worker_kv_blocks", info.kvBlocks - blocks.used - blocks.cached, { state: "free" });
    const staged = experts.residents.stagedBytes();
    const memory = { dense: info.denseBytes, kv: info.kvBytes, experts: experts.residents.bytes - staged, staging: staged };
    for (const kind of ["dense", "kv", "experts", "staging"] as const) metrics.set("enodia_worker_memory_bytes", memory[kind], { kind });
    metrics.set("enodia_expert_hosted", experts.residents.count);
    metrics.set("enodia_expert_replicas_away", experts.plan.giveWay.count);
    metrics.set("enodia_expert_hosted_bytes", experts.residents.bytes);
    metrics.set("enodia_expert_budget_bytes", options.budgetBytes);
    if (experts.oversubscribed) {
      const { misses } = experts.onDemand;
      missed = countMisses(metrics, { ...misses, hits: Math.max(missed.hits, (last?.expertRuns ?? 0) - misses.loads) }, missed);
    }
    const { predictor, prefetch } = experts;
    if (predictor && prefetch) ahead = countPrefetched(metrics, predictor, prefetch.counts, ahead);
    metrics.set("enodia_dispatch_in_flight", experts.connections.inFlight);
    metrics.set("enodia_dispatch_streams", experts.heartbeats.open);
    metrics.set("enodia_plan_epoch", experts.state.epoch);
    metrics.set("enodia_transfer_rate_bytes_per_second", experts.pace.effectiveRate);
    metrics.set("enodia_membership_version", peers.membership.version);
  });
  return () => ({
    notReady: options.health.reasons(),
    hostedBytes: experts.residents.bytes,
    budgetBytes: options.budgetBytes,
    fetchedBytes: experts.materializer.fetchedBytes,
    ...engine.load(),
    draining: options.leaving.draining,
    leaving: options.leaving.ending,
    hosted: experts.served(),
    served: options.record.totals,
    use: last && { kvBlocks: info.kvBlocks, kvBlocksUsed: last.blocksUsed, tokens: last.prefillTokens + last.decodeTokens },
  });
}

function countMisses<M extends Misses & { readonly hits: number }>(metrics: Metrics<"worker">, now: M, before: M): M {
  metrics.add("enodia_expert_hits_total", now.hits - before.hits);
  metrics.add("enodia_expert_misses_total", now.loads - before.loads);
  metrics.add("enodia_expert_miss_bytes_total", now.bytes - before.bytes);
  metrics.add("enodia_expert_miss_stall_seconds_total", now.seconds - before.seconds);
  return now;
}

function countPrefetched(metrics: Metrics<"worker">, predictor: PredictorName, now: Prefetched, before: Prefetched): Prefetched {
  for (const result of prefetchResults) metrics.add("enodia_expert_prefetches_total", now[result] - before[result], { predictor, result });
  metrics.add("enodia_expert_prefetch_bytes_total", now.bytes - before.bytes);
  return now;
}

function countKvHost(metrics: Metrics<"worker">, now: KvTierStats, before: KvTierStats | undefined): void {
  const tier = "memory";
  for (const result of ["stored", "found", "dropped"] as const)
    metrics.add("enodia_kv_tier_blocks_total", now[result] - (before?.[result] ?? 0), { tier, result });
  for (const direction of ["out", "back"] as const) {
    const [{ bytes, seconds }, last = { bytes: 0, seconds: 0 }] = [now[direction], before?.[direction]];
    metrics.add("enodia_kv_tier_bytes_total", bytes - last.bytes, { tier, direction });
    metrics.add("enodia_kv_tier_seconds_total", seconds - last.seconds, { tier, direction });
  }
  metrics.set("enodia_kv_tier_held_bytes", now.heldBytes, { tier });
  metrics.add("enodia_kv_swapped_tokens_total", now.swappedTokens - (before?.swappedTokens ?? 0));
}

function count(metrics: Metrics<"worker">, now: EngineStats, before: EngineStats | undefined): void {
  metrics.add("enodia_worker_tokens_total", now.prefillTokens - (before?.prefillTokens ?? 0), { phase: "prefill" });
  metrics.add("enodia_worker_tokens_total", now.decodeTokens - (before?.decodeTokens ?? 0), { phase: "decode" });
  if (now.kvHost !== undefined) countKvHost(metrics, now.kvHost, before?.kvHost);
  metrics.add("enodia_worker_preemptions_total", now.preemptions - (before?.preemptions ?? 0));
  const accepted = now.accepted - (before?.accepted ?? 0);
  metrics.add("enodia_worker_draft_tokens_total", accepted, { result: "accepted" });
  metrics.add("enodia_worker_draft_tokens_total", now.drafted - (before?.drafted ?? 0) - accepted, { result: "rejected" });
  metrics.add("enodia_worker_cached_prompt_tokens_total", now.cachedTokens - (before?.cachedTokens ?? 0));
  for (const origin of ["local", "remote"] as const) {
    metrics.add("enodia_expert_rows_total", now.rowsFor[origin] - (before?.rowsFor[origin] ?? 0), { origin });
  }
  for (const phase of stepKinds) {
    const waited = (now.waitedSeconds?.[phase] ?? 0) - (before?.waitedSeconds?.[phase] ?? 0);
    metrics.add("enodia_worker_step_wait_seconds_total", waited, { phase });
    for (const seconds of now.stepSeconds[phase]) metrics.observe("enodia_worker_step_duration_seconds", seconds, { phase });
  }
}
