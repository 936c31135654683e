// The load of a gateway as an endpoint picker reads it: names, types and values, and what is not known left out.
import assert from "node:assert/strict";
import { test } from "node:test";
import { poolMetrics } from "../api/app.ts";

const load = { model: "tiny", waiting: 3, running: 5, kvUse: 0.25 };

test("an endpoint picker finds its defaults as gauges, one series each", () => {
  const lines = poolMetrics(load).trimEnd().split("\n");
  const samples = lines.filter((line) => !line.startsWith("#"));
  assert.deepEqual(samples, [
    'vllm:num_requests_waiting{model_name="tiny"} 3',
    'vllm:num_requests_running{model_name="tiny"} 5',
    'vllm:kv_cache_usage_perc{model_name="tiny"} 0.25',
    'vllm:gpu_cache_usage_perc{model_name="tiny"} 0.25',
  ]);
  for (const sample of samples) assert.ok(lines.includes(`# TYPE ${sample.split("{")[0]} gauge`), sample);
});

test("a share that nobody told is left out, and one that is zero is not", () => {
  assert.doesNotMatch(poolMetrics({ ...load, kvUse: undefined }), /cache_usage/);
  assert.match(poolMetrics({ ...load, kvUse: 0 }), /kv_cache_usage_perc\{model_name="tiny"\} 0\n/);
});

test("a name with quotes, backslashes and lines stays within its label", () => {
  assert.match(poolMetrics({ ...load, model: 'a"b\\c\nd' }), /waiting\{model_name="a\\"b\\\\c\\nd"\} 3\n/);
});
