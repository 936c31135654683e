import assert from "node:assert/strict";
import { test } from "node:test";
import { deployment } from "../../../test/kit/deployment/deployment.ts";
import type { PodFacts } from "../../views/pods.ts";
import { parseSamples, sumOfSamples } from "../../views/prometheus-text.ts";
import { rankFigures, rate, runningOf, runningSections, type Scrape } from "../../views/running.ts";
import { sectionsText } from "../table.ts";

const topText = (...of: Parameters<typeof runningSections>) => sectionsText(runningSections(...of));

const scrape = (atMs: number, ...lines: readonly string[]): Scrape => ({ atMs, samples: parseSamples(lines.join("\n")) });
const pod = (rank: number, more: Partial<PodFacts> = {}): PodFacts => ({
  namespace: "ns",
  name: `moe-${rank}`,
  component: "worker",
  owner: "moe",
  rank,
  node: "n",
  phase: "Running",
  failure: "",
  ready: true,
  terminating: false,
  unscheduled: "",
  gates: [],
  createdAt: undefined,
  containers: [],
  ...more,
});
const tokens = (phase: string, count: number) => `enodia_worker_tokens_total{rank="0",phase="${phase}"} ${count}`;
const before = scrape(1_000, tokens("decode", 100), tokens("prefill", 50), "enodia_process_cpu_seconds_total 10");
const now = scrape(
  3_000,
  "# TYPE enodia_worker_tokens_total counter",
  tokens("decode", 150),
  tokens("prefill", 50),
  "enodia_process_cpu_seconds_total 13",
  'enodia_worker_kv_blocks{state="used"} 3',
  'enodia_worker_kv_blocks{state="cached"} 1',
  'enodia_worker_kv_blocks{state="free"} 8',
  "enodia_expert_hosted 12",
  "enodia_process_resident_memory_bytes 1.5e9",
);

test("top: figures are growth over the time between two scrapes, and what is not exposed is not known", () => {
  const figures = rankFigures({ pod: pod(0), before, now, loadPercent: 104 });
  assert.equal(figures.outputPerSecond, 25);
  assert.equal(figures.promptPerSecond, 0);
  assert.equal(figures.cpus, 1.5);
  assert.equal(figures.kvPercent, 25);
  assert.equal(figures.active, undefined);
});

test("top: a counter that fell is of another process, and one scrape alone has no growth", () => {
  assert.equal(rate({ before: now, now: scrape(5_000, tokens("decode", 1)) }, "enodia_worker_tokens_total"), undefined);
  assert.equal(rate({ before: undefined, now }, "enodia_worker_tokens_total"), undefined);
});

test("top: ranks in their order, a silent one without figures, and the sums above", () => {
  const gateway = {
    pod: pod(0, { name: "gw", component: "gateway", rank: undefined }),
    before: undefined,
    now: scrape(3_000, "enodia_gateway_requests_active 2"),
  };
  const text = topText(
    deployment({}, { placement: { epoch: 7, imbalancePercent: 104 } }),
    runningOf([{ pod: pod(1), before: undefined, now: undefined }, { pod: pod(0), before, now, loadPercent: 104 }, gateway]),
  );
  const lines = text.split("\n");
  assert.match(lines[0] ?? "", /^ns\/moe {3}25\.0 tokens\/s, 0\.0 prompt tokens\/s {3}imbalance 104% \(bound -\) {3}epoch 7$/);
  assert.match(lines[1] ?? "", /^gateways {3}1 of 1 answer; 2 requests run, - wait/);
  assert.match(lines[4] ?? "", /^ *0 +moe-0 +Ready +12 +25\.0 +0\.0 +- +- +25% +1\.40 GiB +1\.5 +104%$/);
  assert.match(lines[5] ?? "", /^ *1 +moe-1 +NoAnswer +- +- +- +- +- +- +- +- +-$/);
});

test("metrics as text: samples with labels in any form, and a sum over none is not zero", () => {
  const samples = parseSamples('# HELP x y\nx{a="1",b="say \\"}\\""} 2\nx 3\n\nnot a sample');
  assert.deepEqual(
    samples.map(({ value }) => value),
    [2, 3],
  );
  assert.equal(samples[0]?.labels.b, 'say "}"', "escapes are undone");
  assert.equal(sumOfSamples(samples, "x"), 5);
  assert.equal(sumOfSamples(samples, "x", { a: "2" }), undefined);
});

test("top: the autoscaler's figures, and when it stands still; nothing where there is none", () => {
  const line = (status: string, reason: string, progress?: string) => {
    const conditions = [{ type: "ScalingActive", status, reason, message: "", lastTransitionTime: "2026-03-01T10:00:00Z" }];
    return /^autoscale .*$/m.exec(
      topText(deployment({}, { conditions, ...(progress ? { autoscale: { progress } } : {}) }), runningOf([])),
    )?.[0];
  };
  assert.equal(line("True", "AtTarget", "kvUse 78/80%"), "autoscale  kvUse 78/80%   AtTarget");
  assert.equal(line("False", "SignalsMissing"), "autoscale  -   stands still, SignalsMissing");
  assert.doesNotMatch(topText(deployment(), runningOf([])), /autoscale/);
});
