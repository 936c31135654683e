// Traces at a real OpenTelemetry collector, over OTLP: what gateway and worker send arrives as one trace with its attributes, and what
// is not sampled never leaves the process. The operator's own are test/integration/operator.int.test.ts's to see.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { ensureBinaries } from "../../test/cluster/binaries.ts";
import { type Collector, startCollector } from "../../test/kit/processes/collector.ts";
import { until } from "../../test/kit/processes/process.ts";
import { createTracing } from "./trace.ts";

let collector: Collector;

before(
  async () => {
    const only = ["otelcol"] as const;
    const { otelcol } = await ensureBinaries((line) => process.stderr.write(`${line}\n`), { only });
    collector = await startCollector(otelcol);
  },
  { timeout: 1_200_000 },
);
after(() => collector?.stop());

const received = () => collector.spans();

test("spans of gateway and worker arrive as one trace, with resource, attributes and failure", { timeout: 60_000 }, async () => {
  const gateway = await createTracing({ service: "gateway", endpoint: collector.endpoint, attributes: { "enodia.deployment": "moe" } });
  const worker = await createTracing({ service: "worker", endpoint: collector.endpoint, attributes: { "enodia.rank": 3 } });
  const request = gateway.start("gateway.chat", { role: "server", attributes: { "enodia.prompt_tokens": 7 } });
  const generate = worker.start("worker.generate", { parent: request.traceparent, role: "server" });
  generate.fail(new Error("rank 1 went away"));
  generate.end();
  request.end();
  await Promise.all([gateway.close(), worker.close()]);
  const spans = await until("both spans", () => (received().length >= 2 ? received() : undefined), { timeoutMs: 20_000 });
  const [chat, inner] = ["gateway.chat", "worker.generate"].map((name) => spans.find((span) => span.name === name));
  assert.equal(spans.length, 2);
  assert.equal(chat?.traceId, request.traceId);
  assert.equal(inner?.traceId, request.traceId);
  assert.equal(inner?.parentSpanId, chat?.spanId);
  assert.deepEqual([chat?.service, inner?.service], ["enodia-gateway", "enodia-worker"]);
  assert.deepEqual([chat?.failed, inner?.failed], [false, true]);
  assert.equal(chat?.attributes["enodia.deployment"], "moe");
  assert.equal(Number(chat?.attributes["enodia.prompt_tokens"]), 7);
  assert.equal(Number(inner?.attributes["enodia.rank"]), 3);
});

test("of a share of traces the collector has just those that were kept, whole", { timeout: 60_000 }, async () => {
  const before = received().length;
  const operator = await createTracing({ service: "operator", endpoint: collector.endpoint, ratio: 0.5 });
  const kept: string[] = [];
  for (let i = 0; i < 200; i++) {
    const attempt = operator.start("operator.balance");
    operator.start("operator.plan", { parent: attempt.traceparent }).end();
    attempt.end();
    if (attempt.traceparent.endsWith("-01")) kept.push(attempt.traceId ?? "");
  }
  await operator.close();
  assert.ok(kept.length > 50 && kept.length < 150, `${kept.length} of 200`);
  const all = () => received().slice(before);
  const spans = await until("all spans", () => (all().length >= 2 * kept.length ? all() : undefined), { timeoutMs: 20_000 });
  assert.deepEqual([...new Set(spans.map(({ traceId }) => traceId))].sort(), kept.sort());
  assert.equal(spans.length, 2 * kept.length);
});
