// The exposition: valid text 0.0.4, names and labels of the table only, gauges that can vanish; OpenMetrics with the traces beside
// buckets, which exemplars.int.test.ts shows to a real Prometheus.

import assert from "node:assert/strict";
import { test } from "node:test";
import type { MetricDefinition } from "../../crds/metric-definition.ts";
import { metricLabelNames, metricOfSample, metricTable } from "../../crds/metrics.ts";
import { createHealth, serveHealth } from "./health.ts";
import { silentLog } from "./log.ts";
import { createMetrics } from "./runtime-metrics.ts";

const constants = { namespace: "demo", deployment: "smol", rank: "1" };

interface Sample {
  name: string;
  labels: Record<string, string>;
  value: number;
}

/** A strict reader of text format 0.0.4: throws on anything it does not allow. */
function parseExposition(text: string): { samples: Sample[]; types: Map<string, string> } {
  assert.ok(text.endsWith("\n"), "the last line must end with a line feed");
  const types = new Map<string, string>();
  const helps = new Set<string>();
  const samples: Sample[] = [];
  for (const line of text.split("\n").slice(0, -1)) {
    const meta = /^# (HELP|TYPE) ([a-zA-Z_:][a-zA-Z0-9_:]*) (.+)$/.exec(line);
    if (meta) {
      const [, kind, name = "", rest = ""] = meta;
      if (kind === "HELP") {
        assert.ok(!helps.has(name), `second HELP of ${name}`);
        helps.add(name);
      } else {
        assert.ok(!types.has(name), `second TYPE of ${name}`);
        assert.match(rest, /^(counter|gauge|histogram)$/);
        types.set(name, rest);
      }
      continue;
    }
    const match = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$/.exec(line);
    assert.ok(match, `not a sample line: ${line}`);
    const labels: Record<string, string> = {};
    const body = match[2] ?? "";
    const pairs = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"(?:,|$)/gy;
    while (pairs.lastIndex < body.length) {
      const pair = pairs.exec(body);
      assert.ok(pair, `labels of ${line}`);
      assert.ok(!(pair[1]! in labels), `label ${pair[1]} twice: ${line}`);
      labels[pair[1]!] = pair[2]!.replace(/\\(.)/g, (_, c) => (c === "n" ? "\n" : c));
    }
    const value = match[3] === "+Inf" ? Number.POSITIVE_INFINITY : Number(match[3]);
    assert.ok(match[3] === "NaN" || !Number.isNaN(value), `value of ${line}`);
    samples.push({ name: match[1]!, labels, value });
  }
  const ids = samples.map((s) => `${s.name} ${JSON.stringify(Object.entries(s.labels).sort())}`);
  assert.equal(new Set(ids).size, ids.length, "no series may appear twice");
  return { samples, types };
}

test("the table follows the naming rules", () => {
  for (const [name, definition] of Object.entries<MetricDefinition>(metricTable)) {
    assert.match(name, /^enodia_[a-z][a-z0-9_]*[a-z0-9]$/);
    assert.equal(name.endsWith("_total"), definition.type === "counter", `${name}: _total is for counters`);
    if (definition.type === "histogram") assert.match(name, /_seconds$/, `${name} must name its unit`);
    assert.ok(definition.help.endsWith("."), `${name}: help is a sentence`);
    assert.equal(definition.buckets !== undefined, definition.type === "histogram", `${name}: buckets are for histograms`);
    for (const label of Object.keys(definition.labels))
      assert.ok(!["layer", "expert", "rank", "pod"].includes(label), `${name}: label ${label}`);
    for (const label of Object.keys(definition.labels))
      assert.ok(!["le", "namespace", "deployment"].includes(label), `${name}: label ${label}`);
  }
});

test("a scrape is valid text whose every sample, type and label is in the table", async () => {
  const metrics = createMetrics({ process: "worker", version: "1.2.3", constants });
  metrics.set("enodia_worker_kv_slots", 3, { state: "free" });
  metrics.observe("enodia_dispatch_duration_seconds", 0.004);
  metrics.observe("enodia_dispatch_duration_seconds", 99);
  metrics.add("enodia_dispatch_frames_total", 2, { result: "not_hosted" });
  const { samples, types } = parseExposition(await metrics.text());
  for (const sample of samples) {
    const name = metricOfSample(sample.name);
    assert.ok(name, `${sample.name} is not in the table`);
    assert.equal(types.get(name), metricTable[name].type);
    const allowed = [...metricLabelNames(name), "le"];
    for (const label of Object.keys(sample.labels)) assert.ok(allowed.includes(label), `${sample.name}: label ${label}`);
    for (const [label, value] of Object.entries(constants)) assert.equal(sample.labels[label], value);
  }
  const value = (name: string, labels: Record<string, string>) =>
    samples.find((s) => s.name === name && Object.entries(labels).every(([k, v]) => s.labels[k] === v))?.value;
  assert.equal(value("enodia_dispatch_frames_total", { result: "not_hosted" }), 2);
  assert.equal(value("enodia_dispatch_frames_total", { result: "ok" }), 0, "counters start at zero");
  assert.equal(value("enodia_dispatch_duration_seconds_bucket", { le: "0.005" }), 1);
  assert.equal(value("enodia_dispatch_duration_seconds_bucket", { le: "+Inf" }), 2);
  assert.equal(value("enodia_dispatch_duration_seconds_count", {}), 2);
  await metrics.close();
});

test("histogram buckets are cumulative and end at the count", async () => {
  const metrics = createMetrics({ process: "gateway", version: "0", constants: { namespace: "a", deployment: "b" } });
  for (const seconds of [0.001, 0.0011, 0.2, 5, 1000]) metrics.observe("enodia_gateway_inter_token_seconds", seconds);
  const { samples } = parseExposition(await metrics.text());
  const buckets = samples.filter((s) => s.name === "enodia_gateway_inter_token_seconds_bucket").map((s) => s.value);
  assert.deepEqual(
    buckets,
    [...buckets].sort((a, b) => a - b),
  );
  assert.equal(buckets.at(-1), 5);
  assert.equal(samples.find((s) => s.name === "enodia_gateway_inter_token_seconds_sum")?.value, 1005.2021);
  await metrics.close();
});

test("a gateway tells load and latencies a second time under the names of vLLM, with the model, in both formats", async () => {
  const constants = { namespace: "ns", deployment: "chat" };
  const metrics = createMetrics({ process: "gateway", version: "1", constants, vllmModel: 'a"b' });
  metrics.set("enodia_gateway_queue_requests", 3);
  metrics.observe("enodia_gateway_time_to_first_token_seconds", 0.2);
  metrics.observe("enodia_gateway_inter_token_seconds", 0.02);
  metrics.observe("enodia_gateway_request_duration_seconds", 7, { endpoint: "chat" });
  for (const text of [await metrics.text(), await metrics.openMetrics()]) {
    const lines = text.split("\n");
    for (const name of [
      "num_requests_waiting",
      "time_to_first_token_seconds",
      "inter_token_latency_seconds",
      "e2e_request_latency_seconds",
    ])
      assert.equal(lines.filter((line) => line.startsWith(`# TYPE vllm:${name} `)).length, 1, name);
    const of = 'model_name="a\\"b",namespace="ns",deployment="chat"';
    assert.ok(lines.includes(`vllm:num_requests_waiting{${of}} 3`));
    assert.ok(lines.includes(`vllm:time_to_first_token_seconds_bucket{${of},le="0.25"} 1`));
    assert.match(text, /^vllm:e2e_request_latency_seconds_sum\{model_name="a\\"b",.*endpoint="chat".*\} 7$/m);
  }
  await metrics.close();
});

test("label values are escaped", async () => {
  const metrics = createMetrics({ process: "operator", version: 'odd "1"\\\n' });
  const { samples } = parseExposition(await metrics.text());
  assert.equal(samples.find((s) => s.name === "enodia_build_info")?.labels.version, 'odd "1"\\\n');
  await metrics.close();
});

test("the operator names the deployment itself, and a forgotten deployment leaves no gauge behind", async () => {
  const metrics = createMetrics({ process: "operator", version: "0" });
  const one = { namespace: "demo", deployment: "one" };
  const two = { namespace: "demo", deployment: "two" };
  for (const deployment of [one, two]) {
    metrics.track(deployment);
    metrics.set("enodia_placement_epoch", 4, deployment);
    metrics.set("enodia_expert_imbalance_ratio", 1.25, { ...deployment, layer_agg: "max" });
  }
  const seen = async () =>
    parseExposition(await metrics.text())
      .samples.filter((s) => s.name === "enodia_placement_epoch")
      .map((s) => s.labels.deployment);
  assert.deepEqual(await seen(), ["one", "two"]);
  metrics.forget(one);
  assert.deepEqual(await seen(), ["two"]);
  const { samples } = parseExposition(await metrics.text());
  assert.equal(samples.find((s) => s.name === "enodia_expert_moves_total" && s.labels.deployment === "two")?.value, 0);
  await metrics.close();
});

test("unknown names, labels and values do not compile", () => {
  const metrics = createMetrics({ process: "gateway", version: "0" });
  // @ts-expect-error unknown name
  metrics.add("enodia_nonsense_total", 1);
  // @ts-expect-error a worker's metric
  metrics.set("enodia_plan_epoch", 1);
  // @ts-expect-error a gauge is not added to
  metrics.add("enodia_gateway_queue_requests", 1);
  // @ts-expect-error missing label
  metrics.add("enodia_gateway_tokens_total", 1);
  // @ts-expect-error unknown label value
  metrics.add("enodia_gateway_tokens_total", 1, { kind: "thought" });
  // @ts-expect-error unknown label
  metrics.set("enodia_gateway_queue_requests", 1, { rank: "0" });
  const operator = createMetrics({ process: "operator", version: "0" });
  // @ts-expect-error the operator must name the deployment
  operator.set("enodia_placement_epoch", 1);
  operator.set("enodia_operator_leader", 1);
});

const traceId = "0af7651916cd43dd8448eb211c80319c";
const sampled = `00-${traceId}-b7ad6b7169203331-01`;
const unsampled = "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
const labels = { namespace: "a", deployment: "b" };
const histogram = "enodia_gateway_request_duration_seconds";

const buckets = (text: string, endpoint: string): string[] =>
  text.split("\n").filter((line) => line.startsWith(`${histogram}_bucket`) && line.includes(`endpoint="${endpoint}"`));

test("counters have their family's name, every family is told before its samples, and the last line ends it", async () => {
  const metrics = createMetrics({ process: "gateway", version: "0", constants: labels });
  const text = await metrics.openMetrics();
  await metrics.close();
  assert.ok(text.endsWith("\n# EOF\n"));
  assert.ok(!/\n\n/.test(text));
  assert.match(text, /^# TYPE enodia_gateway_tokens counter$/m);
  assert.match(text, /^enodia_gateway_tokens_total\{kind="output",namespace="a",deployment="b"\} 0$/m);
  const told = new Set<string>();
  for (const line of text.trimEnd().split("\n")) {
    const family = /^# TYPE (\S+)/.exec(line)?.[1];
    if (family !== undefined) {
      assert.ok(!told.has(family), `${family} comes once`);
      told.add(family);
    } else if (!line.startsWith("#")) {
      const name = /^\w+/.exec(line)?.[0] ?? "";
      assert.ok(told.has(name) || told.has(name.replace(/_(total|bucket|sum|count)$/, "")), name);
    }
  }
});

test("the newest sampled trace stands beside the bucket of its value and no other, and only in OpenMetrics", async () => {
  const metrics = createMetrics({ process: "gateway", version: "0", constants: labels });
  const chat = { endpoint: "chat" } as const;
  metrics.observeTraced(sampled, histogram, 0.3, chat);
  metrics.observeTraced(unsampled, histogram, 0.3, chat);
  metrics.observeTraced("", histogram, 700, chat);
  metrics.observeTraced(sampled, histogram, 700, chat);
  metrics.observeTraced(sampled, histogram, 0.25, { endpoint: "completions" });
  const [text, old] = [await metrics.openMetrics(), await metrics.text()];
  await metrics.close();
  const marked = (endpoint: string): string[] =>
    buckets(text, endpoint)
      .filter((line) => line.includes(" # "))
      .map((line) => line.replace(/ \d+\.\d{3}$/, " AT"));
  const said = (endpoint: string, le: string, count: number, value: number) =>
    `${histogram}_bucket{endpoint="${endpoint}",namespace="a",deployment="b",le="${le}"} ${count} # {trace_id="${traceId}"} ${value} AT`;
  assert.deepEqual(marked("chat"), [said("chat", "0.5", 2, 0.3), said("chat", "+Inf", 4, 700)]);
  assert.deepEqual(marked("completions"), [said("completions", "0.25", 1, 0.25)], "a bound belongs to its bucket");
  assert.ok(!old.includes("trace_id") && !old.includes("# EOF"));
});

test("a scraper that takes OpenMetrics gets it, every other the older text", async () => {
  const metrics = createMetrics({ process: "gateway", version: "0", constants: labels });
  const server = await serveHealth({ health: createHealth(), metrics, probePort: 0, metricsPort: 0, host: "127.0.0.1", log: silentLog });
  const type = async (accept?: string): Promise<string | null> => {
    const response = await fetch(`http://127.0.0.1:${server.metricsPort}/metrics`, accept === undefined ? {} : { headers: { accept } });
    await response.text();
    return response.headers.get("content-type");
  };
  try {
    // As Prometheus 3 asks.
    const prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
    assert.equal(await type(prometheus), "application/openmetrics-text; version=1.0.0; charset=utf-8");
    for (const accept of [undefined, "*/*", "text/plain;version=0.0.4"])
      assert.equal(await type(accept), "text/plain; version=0.0.4; charset=utf-8");
  } finally {
    await server.close();
    await metrics.close();
  }
});
