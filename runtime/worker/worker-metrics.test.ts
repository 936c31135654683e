// The worker's series against the engine's numbers.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { EngineStats } from "../engine/engine.ts";
import { createMetrics } from "../observe/runtime-metrics.ts";
import { type VitalsOptions, watchVitals } from "./worker-metrics.ts";

test("steps are observed one by one, and KV slots and blocks are used, cached or free", async (t) => {
  t.mock.timers.enable({ apis: ["setInterval"] });
  const idle: EngineStats = {
    ...{ prefillTokens: 0, decodeTokens: 0, cachedTokens: 0, stepSeconds: { prefill: [], decode: [], mixed: [] } },
    ...{ blocksUsed: 0, blocksKept: 0, preemptions: 0, drafted: 0, accepted: 0 },
    ...{ slotsUsed: 0, slotsKept: 0, queuedRequests: 0, hostedExperts: 0, rowsFor: { local: 0, remote: 0 } },
  };
  const polls: EngineStats[] = [
    {
      ...idle,
      cachedTokens: 5,
      slotsUsed: 3,
      slotsKept: 2,
      blocksUsed: 9,
      blocksKept: 4,
      preemptions: 2,
      drafted: 9,
      accepted: 4,
      stepSeconds: { prefill: [0.5], decode: [0.02, 0.02, 0.02, 2], mixed: [0.1] },
      waitedSeconds: { prefill: 0, decode: 0.5, mixed: 0 },
      rowsFor: { local: 7, remote: 2 },
    },
    {
      ...idle,
      cachedTokens: 9,
      slotsUsed: 1,
      slotsKept: 2,
      blocksUsed: 5,
      blocksKept: 7,
      preemptions: 3,
      drafted: 12,
      accepted: 6,
      stepSeconds: { prefill: [], decode: [0.02], mixed: [] },
      waitedSeconds: { prefill: 0, decode: 0.75, mixed: 0 },
      rowsFor: { local: 8, remote: 6 },
      expertRuns: 12,
    },
  ];
  const metrics = createMetrics({ process: "worker", version: "0", constants: {} });
  const options = {
    engine: { stats: async () => polls.shift(), load: () => ({ queuedTokens: 0, activeRequests: 0 }) },
    info: { kvSlots: 8, kvBlocks: 20, denseBytes: 0, kvBytes: 0 },
    experts: {
      residents: { bytes: 0, count: 0, stagedBytes: () => 0 },
      heartbeats: {},
      connections: {},
      state: {},
      pace: {},
      plan: { giveWay: { count: 0 } },
      oversubscribed: true,
      onDemand: { misses: { loads: 3, bytes: 30, seconds: 0.5 } },
      ...{ predictor: "next-gate", prefetch: { counts: { useful: 4, late: 2, wasted: 1, bytes: 70 } } },
    },
    ...{ peers: { membership: { version: 1 } }, metrics, budgetBytes: 0, leaving: { draining: false, ending: false }, health: {} },
  } as unknown as VitalsOptions;
  watchVitals(options);
  for (let i = 0; i < 2; i++) {
    t.mock.timers.tick(1_000);
    await new Promise((resolve) => setImmediate(resolve));
  }
  const text = await metrics.text();
  const value = (series: RegExp) => Number(new RegExp(`^${series.source}\\S* (\\S+)`, "m").exec(text)?.[1]);
  assert.equal(value(/enodia_worker_step_wait_seconds_total\{phase="decode"/), 0.75);
  assert.equal(value(/enodia_worker_step_duration_seconds_count\{phase="prefill"/), 1);
  assert.equal(value(/enodia_worker_step_duration_seconds_count\{phase="decode"/), 5);
  assert.equal(value(/enodia_worker_step_duration_seconds_count\{phase="mixed"/), 1);
  assert.equal(value(/enodia_worker_step_duration_seconds_bucket\{phase="decode",le="0.025"/), 4);
  assert.deepEqual(
    ["used", "cached", "free"].map((state) => value(new RegExp(`enodia_worker_kv_slots\\{state="${state}"`))),
    [1, 2, 5],
  );
  assert.equal(value(/enodia_worker_cached_prompt_tokens_total/), 9);
  assert.equal(value(/enodia_expert_misses_total/), 3);
  assert.equal(value(/enodia_expert_miss_stall_seconds_total/), 0.5);
  await metrics.text();
  assert.equal(value(/enodia_expert_misses_total/), 3, "counted once");
  assert.equal(value(/enodia_expert_hits_total/), 9);
  assert.deepEqual(
    ["useful", "late", "wasted"].map((result) =>
      value(new RegExp(`enodia_expert_prefetches_total\\{predictor="next-gate",result="${result}"`)),
    ),
    [4, 2, 1],
  );
  assert.equal(value(/enodia_expert_rows_total\{origin="local"/), 8);
  assert.equal(value(/enodia_expert_rows_total\{origin="remote"/), 6);
  await metrics.close();
});
