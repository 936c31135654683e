// Traces at a real OpenTelemetry collector, over OTLP: what gateway, worker and operator send arrives as one trace with its attributes,
// and what is not sampled never leaves the process.
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { stringify } from "yaml";
import { ensureBinaries } from "../../test/cluster/binaries.ts";
import { stop, until } from "../../test/harness/process.ts";
import { freePort } from "../../test/harness/prometheus.ts";
import { createTracing } from "./trace.ts";

interface Received {
  readonly service: string;
  readonly name: string;
  readonly traceId: string;
  readonly parentSpanId: string | undefined;
  readonly spanId: string;
  readonly failed: boolean;
  readonly attributes: Readonly<Record<string, unknown>>;
}

let folder: string;
let collector: ChildProcess;
let endpoint: string;

before(
  async () => {
    const { otelcol } = await ensureBinaries((line) => process.stderr.write(`${line}\n`), { only: ["otelcol"] });
    folder = mkdtempSync(join(tmpdir(), "enodia-collector-"));
    const port = await freePort();
    endpoint = `http://127.0.0.1:${port}`;
    const config = {
      receivers: { otlp: { protocols: { http: { endpoint: `127.0.0.1:${port}` } } } },
      exporters: { file: { path: join(folder, "traces.json"), flush_interval: "100ms" } },
      service: {
        telemetry: { metrics: { level: "none" }, logs: { level: "warn" } },
        pipelines: { traces: { receivers: ["otlp"], exporters: ["file"] } },
      },
    };
    writeFileSync(join(folder, "config.yaml"), stringify(config));
    collector = spawn(otelcol, [`--config=file:${join(folder, "config.yaml")}`], { stdio: ["ignore", "ignore", "inherit"] });
    const listens = () =>
      new Promise<true | undefined>((resolve) => {
        const socket = connect(port, "127.0.0.1");
        socket.once("connect", () => resolve(true)).once("error", () => resolve(undefined));
        socket.once("connect", () => socket.destroy());
      });
    await until("the collector to listen", listens, { timeoutMs: 30_000 });
  },
  { timeout: 1_200_000 },
);
after(async () => {
  if (collector) await stop(collector);
  rmSync(folder, { recursive: true, force: true });
});

const attributesOf = (list: readonly any[] = []): Record<string, unknown> =>
  Object.fromEntries(list.map(({ key, value }) => [key, Object.values(value)[0]]));

/** Everything that the collector has written: one export a line, as OTLP's JSON. */
function received(): Received[] {
  const file = join(folder, "traces.json");
  if (!existsSync(file)) return [];
  const exports = readFileSync(file, "utf8")
    .split("\n")
    .filter((line) => line.endsWith("}"));
  return exports
    .flatMap((line) => JSON.parse(line).resourceSpans as any[])
    .flatMap(({ resource, scopeSpans }) =>
      (scopeSpans as any[]).flatMap(({ spans }) =>
        (spans as any[]).map(({ name, traceId, spanId, parentSpanId, status, attributes }) => ({
          service: String(attributesOf(resource.attributes)["service.name"]),
          ...{ name, traceId, spanId, parentSpanId: parentSpanId || undefined, failed: status?.code === 2 },
          attributes: { ...attributesOf(resource.attributes), ...attributesOf(attributes) },
        })),
      ),
    );
}

test("spans of gateway and worker arrive as one trace, with resource, attributes and failure", { timeout: 60_000 }, async () => {
  const gateway = await createTracing({ service: "gateway", endpoint, attributes: { "enodia.deployment": "moe" } });
  const worker = await createTracing({ service: "worker", endpoint, attributes: { "enodia.rank": 3 } });
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
  const operator = await createTracing({ service: "operator", endpoint, ratio: 0.5 });
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
