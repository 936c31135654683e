// Logs are one JSON object per line, health shows reasons, traces link across processes.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { text } from "node:stream/consumers";
import { test } from "node:test";
import { InMemorySpanExporter } from "@opentelemetry/sdk-trace";
import { AppError } from "../../crds/common.ts";
import { createHealth, serveHealth } from "./health.ts";
import { createLog, silentLog } from "./log.ts";
import { createMetrics } from "./runtime-metrics.ts";
import { createTracing, parseTraceparent, sampledTraceId } from "./trace.ts";

test("a log line is one JSON object with level, time, message and the chain of causes", () => {
  const lines: string[] = [];
  const log = createLog({ level: "info", name: "worker", fields: { rank: 2 }, write: (line) => lines.push(line) });
  log.debug({}, "hidden");
  const cause = new Error("ECONNRESET");
  log.child({ requestId: "r1" }).error({ err: new AppError("peer went away", { code: "PeerLost", cause }) }, "dispatch failed");
  assert.equal(lines.length, 1);
  const line = JSON.parse(lines[0]!);
  assert.equal(line.level, "error");
  assert.equal(line.message, "dispatch failed");
  assert.equal(line.rank, 2);
  assert.equal(line.requestId, "r1");
  assert.equal(line.err.code, "PeerLost");
  assert.equal(line.err.cause.message, "ECONNRESET");
  assert.ok(!Number.isNaN(Date.parse(line.time)));
});

test("a level that changes holds for children that were made before, and silent is silent", () => {
  const lines: string[] = [];
  const log = createLog({ level: "info", name: "worker", write: (line) => lines.push(JSON.parse(line).message) });
  const child = log.child({ requestId: "r1" });
  log.setLevel("debug");
  child.debug({}, "detail");
  log.setLevel("debug");
  child.setLevel("silent");
  log.error({}, "unheard");
  assert.deepEqual(lines, ["log level changed", "detail"]);
});

test("readyz names every reason, healthz only dies for good, metrics follow", async () => {
  const health = createHealth({ plan: "no plan yet" });
  const metrics = createMetrics({ process: "worker", version: "0", constants: { namespace: "a", deployment: "b", rank: "0" } });
  const server = await serveHealth({ health, metrics, probePort: 0, metricsPort: 0, host: "127.0.0.1", log: silentLog });
  const get = async (path: string, method = "GET") => {
    const port = path === "/metrics" ? server.metricsPort : server.probePort;
    const response = await fetch(`http://127.0.0.1:${port}${path}`, { method });
    return { status: response.status, text: await response.text(), type: response.headers.get("content-type") };
  };
  try {
    assert.deepEqual((await get("/readyz")).text, "plan: no plan yet\n");
    assert.equal((await get("/readyz")).status, 503);
    assert.equal((await get("/healthz")).status, 200);
    assert.match((await get("/metrics")).text, /^enodia_ready\{[^}]*\} 0$/m);
    health.ready("plan");
    assert.equal((await get("/readyz?verbose")).status, 200);
    const scrape = await get("/metrics");
    assert.equal(scrape.type, "text/plain; version=0.0.4; charset=utf-8");
    assert.match(scrape.text, /^enodia_ready\{[^}]*\} 1$/m);
    assert.equal((await get("/nowhere")).status, 404);
    assert.equal((await get("/metrics", "POST")).status, 405);
    health.dead("engine thread ended");
    assert.equal((await get("/healthz")).status, 503);
    assert.equal((await get("/readyz")).status, 503);
  } finally {
    await server.close();
    await metrics.close();
  }
});

test("a port in use is a clear error", async () => {
  const health = createHealth();
  const metrics = createMetrics({ process: "operator", version: "0" });
  const options = { health, metrics, host: "127.0.0.1", log: silentLog };
  const first = await serveHealth({ ...options, probePort: 0, metricsPort: 0 });
  const taken = { code: "ListenFailed", message: /^(probe|metrics) port \d+: / };
  await assert.rejects(serveHealth({ ...options, probePort: first.probePort, metricsPort: 0 }), taken);
  await assert.rejects(serveHealth({ ...options, probePort: 0, metricsPort: first.metricsPort }), taken);
  await first.close();
});

test("spans of three processes form one trace", async () => {
  const exporter = new InMemorySpanExporter();
  const gateway = await createTracing({ service: "gateway", exporter });
  const worker = await createTracing({ service: "worker", exporter });
  const client = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  const request = gateway.start("chat", { parent: client, role: "server" });
  const generate = worker.start("generate", { parent: request.traceparent });
  const dispatch = worker.start("dispatch", { parent: generate.traceparent, attributes: { "enodia.layer": 3 } });
  dispatch.fail(new Error("lost"));
  for (const span of [dispatch, generate, request]) span.end();
  const spans = new Map(exporter.getFinishedSpans().map((span) => [span.name, span]));
  assert.deepEqual([...spans.keys()], ["dispatch", "generate", "chat"]);
  for (const span of spans.values()) assert.equal(span.spanContext().traceId, "0af7651916cd43dd8448eb211c80319c");
  assert.equal(spans.get("chat")?.parentSpanContext?.spanId, "b7ad6b7169203331");
  assert.equal(spans.get("generate")?.parentSpanContext?.spanId, spans.get("chat")?.spanContext().spanId);
  assert.equal(spans.get("dispatch")?.parentSpanContext?.spanId, spans.get("generate")?.spanContext().spanId);
  assert.equal(spans.get("dispatch")?.status.message, "lost");
  await Promise.all([gateway.close(), worker.close()]);
});

test("an unsampled parent stays unsampled, a malformed one starts a new trace, off hands the parent on", async () => {
  const exporter = new InMemorySpanExporter();
  const tracing = await createTracing({ service: "gateway", exporter });
  const unsampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
  tracing.start("quiet", { parent: unsampled }).end();
  assert.equal(exporter.getFinishedSpans().length, 0);
  for (const parent of ["", "nonsense", "00-00000000000000000000000000000000-b7ad6b7169203331-01"]) {
    assert.equal(parseTraceparent(parent), undefined);
    tracing.start("fresh", { parent }).end();
  }
  assert.equal(exporter.getFinishedSpans().length, 3);
  assert.equal(
    exporter.getFinishedSpans().every((span) => span.parentSpanContext === undefined),
    true,
  );
  const off = await createTracing({ service: "worker" });
  assert.equal(off.enabled, false);
  assert.equal(off.start("x", { parent: unsampled }).traceparent, unsampled);
  assert.equal(off.start("x", { parent: "nonsense" }).traceparent, "");
  await tracing.close();
});

test("a share of the traces that begin here is kept whole, and of others their caller has decided", async () => {
  const exporter = new InMemorySpanExporter();
  const gateway = await createTracing({ service: "gateway", exporter, ratio: 0.25 });
  const worker = await createTracing({ service: "worker", exporter, ratio: 0 });
  const count = 4_000;
  for (let i = 0; i < count; i++) {
    const request = gateway.start("chat");
    worker.start("generate", { parent: request.traceparent }).end();
    assert.equal(sampledTraceId(request.traceparent) ?? request.traceId, request.traceId);
    request.end();
  }
  const spans = exporter.getFinishedSpans();
  const traces = Map.groupBy(spans, (span) => span.spanContext().traceId);
  // Five standard deviations of so many draws.
  const apart = 5 * Math.sqrt(count * 0.25 * 0.75);
  assert.ok(Math.abs(traces.size - count / 4) < apart, `${traces.size} of ${count}`);
  for (const [traceId, both] of traces) assert.equal(both.length, 2, `${traceId} has both spans`);
  exporter.reset();
  const none = await createTracing({ service: "gateway", exporter, ratio: 0 });
  none.start("mine").end();
  none.start("theirs", { parent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01" }).end();
  assert.deepEqual(
    exporter.getFinishedSpans().map(({ name }) => name),
    ["theirs"],
  );
  await Promise.all([gateway.close(), worker.close(), none.close()]);
});

test("log lines have the trace's id, whether it is kept or not, and none where there is no trace", async () => {
  const tracing = await createTracing({ service: "gateway", exporter: new InMemorySpanExporter(), ratio: 0 });
  const unsampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
  const off = await createTracing({ service: "worker" });
  const lines: string[] = [];
  const log = createLog({ level: "info", name: "gateway", write: (line) => lines.push(line) });
  for (const span of [tracing.start("x", { parent: unsampled }), off.start("x", { parent: unsampled }), off.start("x")])
    log.info({ traceId: span.traceId }, "request ended");
  assert.deepEqual(
    lines.map((line) => JSON.parse(line).traceId),
    ["0af7651916cd43dd8448eb211c80319c", "0af7651916cd43dd8448eb211c80319c", undefined],
  );
  assert.equal(sampledTraceId(unsampled), undefined);
  await tracing.close();
});

test("with an endpoint, spans reach an OTLP collector at the latest when the process ends", async () => {
  const received: { url: string | undefined; body: string }[] = [];
  const collector = createServer(async (request, response) => {
    received.push({ url: request.url, body: await text(request) });
    response.writeHead(200, { "content-type": "application/json" }).end("{}");
  });
  await new Promise<void>((resolve) => collector.listen(0, "127.0.0.1", resolve));
  const { port } = collector.address() as AddressInfo;
  const tracing = await createTracing({ service: "worker", endpoint: `http://127.0.0.1:${port}/`, attributes: { "enodia.rank": 3 } });
  tracing.start("generate", { attributes: { "enodia.tokens": 7 } }).end();
  await tracing.close();
  collector.close();
  assert.deepEqual(
    received.map(({ url }) => url),
    ["/v1/traces"],
  );
  for (const word of ["enodia-worker", "enodia.rank", "generate", "enodia.tokens"]) assert.ok(received[0]?.body.includes(word), word);
});

test("a collector that is away costs nothing but its spans", async () => {
  const tracing = await createTracing({ service: "worker", endpoint: "http://127.0.0.1:1" });
  tracing.start("generate").end();
  await tracing.close();
});
