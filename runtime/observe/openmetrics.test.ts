// Metrics as Prometheus is served them in OpenMetrics, and the traces beside buckets. That a real Prometheus takes them is
// exemplars.int.test.ts's to see.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createHealth, serveHealth } from "./health.ts";
import { silentLog } from "./log.ts";
import { createMetrics } from "./runtime-metrics.ts";

const traceId = "0af7651916cd43dd8448eb211c80319c";
const sampled = `00-${traceId}-b7ad6b7169203331-01`;
const unsampled = "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
const constants = { namespace: "a", deployment: "b" };
const histogram = "enodia_gateway_request_duration_seconds";

const buckets = (text: string, endpoint: string): string[] =>
  text.split("\n").filter((line) => line.startsWith(`${histogram}_bucket`) && line.includes(`endpoint="${endpoint}"`));

test("counters have their family's name, every family is told before its samples, and the last line ends it", async () => {
  const metrics = createMetrics({ process: "gateway", version: "0", constants });
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
  const metrics = createMetrics({ process: "gateway", version: "0", constants });
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
  const metrics = createMetrics({ process: "gateway", version: "0", constants });
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
