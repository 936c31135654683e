// The Inference service alone: what of the engine's events a caller sees when a request ends before its time, and heartbeats.
import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import { test } from "node:test";
import { InMemorySpanExporter } from "@opentelemetry/sdk-trace";
import { AppError } from "../../crds/common.ts";
import type { Engine } from "../engine/engine.ts";
import { type AliveEvent, AliveRequestSchema, type GenerateEvent, GenerateRequestSchema } from "../net/gen/enodia/runtime/v1/runtime_pb.js";
import { create } from "../net/service.ts";
import { createLog, type Log, silentLog } from "../observe/log.ts";
import { createMetrics, type Metrics } from "../observe/runtime-metrics.ts";
import { createTracing, type Tracing } from "../observe/trace.ts";
import { createInferenceServer } from "./inference.ts";
import { KeptAnswers } from "./kept-answers.ts";
import { PrefixLog } from "./prefix-log.ts";
import { ServiceRecord } from "./service-record.ts";

/** Queues a request and never gives it a slot. */
const engine: Pick<Engine, "generate"> = {
  async *generate({ signal }) {
    yield { type: "queued", queuedTokens: 1 };
    await new Promise((resolve) => signal?.addEventListener("abort", resolve, { once: true }));
    yield { type: "finish", reason: "cancelled", outputTokens: 0 };
  },
};

const prefixes = new PrefixLog(new Uint8Array(32));

interface Seen {
  readonly metrics: Metrics<"worker">;
  readonly tracing: Tracing;
  readonly record?: ServiceRecord;
  readonly log?: Log;
}

function serving(of: Pick<Engine, "generate">, { metrics, tracing, record = new ServiceRecord(), log = silentLog }: Seen) {
  return createInferenceServer({
    ...{
      engine: { ...of, passed: () => 7 },
      deploymentUid: "uid",
      caller: () => ({ role: "gateway", podName: undefined, podUid: undefined }),
      notReady: () => undefined,
      refuses: () => false,
      onGap: () => {},
      kvUse: () => 0.25,
      prefixes,
      answers: new KeptAnswers(() => 0),
      record,
    },
    ...{ metrics, tracing, log },
  });
}
type Call = Parameters<ReturnType<typeof serving>["generate"]>[0];

test("a request whose deadline passes ends with that error, and with no finish that looks like the worker's", async () => {
  const metrics = createMetrics({ process: "worker", version: "0", constants: {} });
  const record = new ServiceRecord();
  const service = serving(engine, { metrics, tracing: await createTracing({ service: "worker" }), record });
  const written: GenerateEvent[] = [];
  const request = create(GenerateRequestSchema, {
    ...{ sender: { deploymentUid: "uid" }, prompt: [1], maxTokens: 1, deadlineUnixMs: BigInt(Date.now() + 20) },
  });
  const call = Object.assign(new EventEmitter(), {
    ...{ request, cancelled: false, getDeadline: () => Infinity, end: () => {}, write: (event: GenerateEvent) => void written.push(event) },
  });
  const failed = new Promise<{ metadata: { get(key: string): unknown[] } }>((resolve) => call.once("error", resolve));
  service.generate(call as unknown as Call);
  assert.deepEqual((await failed).metadata.get("enodia-code"), ["DeadlineExceeded"]);
  assert.deepEqual(
    written.map(({ event }) => event.case),
    ["queued"],
  );
  assert.deepEqual([record.totals.requests, record.totals.failed], [1, 1]);
  await metrics.close();
});

test("a kept answer has the time of the reader that has most of it", async () => {
  const metrics = createMetrics({ process: "worker", version: "0", constants: {} });
  const slow: Pick<Engine, "generate"> = {
    async *generate({ signal }) {
      yield { type: "started", queuedTokens: 0, cachedPromptTokens: 0 };
      await new Promise((resolve) => setTimeout(resolve, 80));
      yield { type: "finish", reason: signal?.aborted ? "cancelled" : "stop", outputTokens: 0 };
    },
  };
  const service = serving(slow, { metrics, tracing: await createTracing({ service: "worker" }) });
  const read = (ms: number) =>
    new Promise<unknown>((resolve) => {
      const keep = { id: "k", digest: Buffer.from("d") };
      const fields = { sender: { deploymentUid: "uid" }, prompt: [1], maxTokens: 1, deadlineUnixMs: BigInt(Date.now() + ms), keep };
      const request = create(GenerateRequestSchema, fields);
      const call = Object.assign(new EventEmitter(), { request, cancelled: false, getDeadline: () => Infinity, write: () => {} });
      call.once("error", ({ metadata }) => resolve(metadata.get("enodia-code")[0]));
      service.generate(Object.assign(call, { end: () => resolve("whole") }) as unknown as Call);
    });
  assert.deepEqual(await Promise.all([read(20), read(10_000), read(30)]), ["whole", "whole", "whole"]);
  await metrics.close();
});

test("a request goes on where clocks differ: what it may still take is the time that came with the call", async () => {
  const answers: Pick<Engine, "generate"> = {
    async *generate({ signal }) {
      await new Promise((resolve) => setTimeout(resolve, 30));
      yield { type: "finish", reason: signal?.aborted ? "cancelled" : "stop", outputTokens: 0 };
    },
  };
  const metrics = createMetrics({ process: "worker", version: "0", constants: {} });
  const service = serving(answers, { metrics, tracing: await createTracing({ service: "worker" }) });
  // By the caller's clock it has a minute left; this one is half an hour ahead of that.
  const deadlineUnixMs = BigInt(Date.now() - 30 * 60_000 + 60_000);
  const request = create(GenerateRequestSchema, { sender: { deploymentUid: "uid" }, prompt: [1], maxTokens: 1, deadlineUnixMs });
  const written: GenerateEvent[] = [];
  await new Promise<void>((resolve, reject) => {
    const call = Object.assign(new EventEmitter(), {
      ...{ request, cancelled: false, getDeadline: () => Date.now() + 62_000 },
      ...{ end: resolve, write: (event: GenerateEvent) => void written.push(event) },
    });
    call.once("error", reject);
    service.generate(call as unknown as Call);
  });
  assert.deepEqual(
    written.map(({ event }) => event.case),
    ["finish"],
  );
});

test("the engine is told of traces that are kept, and of no others, since their frames take the longer way", async () => {
  const told: (string | undefined)[] = [];
  const answering: Pick<Engine, "generate"> = {
    async *generate({ traceparent }) {
      told.push(traceparent?.slice(0, -"-0123456789abcdef-01".length));
      yield { type: "finish", reason: "stop", outputTokens: 0 };
    },
  };
  const metrics = createMetrics({ process: "worker", version: "0", constants: {} });
  const service = serving(answering, {
    metrics,
    tracing: await createTracing({ service: "worker", exporter: new InMemorySpanExporter() }),
  });
  const traces = ["01", "00"].map((flags) => `00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-${flags}`);
  for (const traceparent of traces) {
    const request = create(GenerateRequestSchema, { sender: { deploymentUid: "uid" }, prompt: [1], maxTokens: 1, traceparent });
    await new Promise<void>((resolve) => {
      const call = Object.assign(new EventEmitter(), {
        request,
        cancelled: false,
        getDeadline: () => Infinity,
        end: resolve,
        write: () => {},
      });
      service.generate(call as unknown as Call);
    });
  }
  assert.deepEqual(told, ["00-0af7651916cd43dd8448eb211c80319c", undefined]);
  await metrics.close();
});

test("each sign of life says how full the attention cache is, and whether rows pass; the first what is computed of prompts", async () => {
  const metrics = createMetrics({ process: "worker", version: "0", constants: {} });
  const service = serving(engine, { metrics, tracing: await createTracing({ service: "worker" }) });
  const signs: AliveEvent[] = [];
  const second = Promise.withResolvers<void>();
  prefixes.add({ gained: ["0a".repeat(16)], lost: [] });
  const write = (sign: AliveEvent) => {
    if (signs.push(sign) === 2) second.resolve();
  };
  const request = create(AliveRequestSchema, { sender: { deploymentUid: "uid" } });
  const call = Object.assign(new EventEmitter(), { request, cancelled: false, writableNeedDrain: false, write });
  service.alive(call as unknown as Parameters<typeof service.alive>[0]);
  await second.promise;
  call.emit("close");
  assert.deepEqual(
    signs.map(({ kvUse, passed }) => [kvUse, passed]),
    [
      [0.25, 7],
      [0.25, 7],
    ],
  );
  assert.deepEqual(
    signs.map(({ prefixes: told }) => told && [told.number, told.root.length, ...told.gained]),
    [[1, 32, ...new Uint8Array(16).fill(10)], undefined],
  );
});

test("log lines of a request have its id and its trace: of what fails here at once, of the others where somebody looks closer", async () => {
  const metrics = createMetrics({ process: "worker", version: "0", constants: {} });
  const tracing = await createTracing({ service: "worker", exporter: new InMemorySpanExporter() });
  const traceId = "0af7651916cd43dd8448eb211c80319c";
  const linesOf = async (code: string | undefined, level: "info" | "debug") => {
    const lines: any[] = [];
    const log = createLog({ level, name: "worker", write: (line) => lines.push(JSON.parse(line)) });
    const of: Pick<Engine, "generate"> = {
      async *generate() {
        if (code !== undefined) throw new AppError("no", { code });
        yield { type: "finish", reason: "stop", outputTokens: 0 };
      },
    };
    const fields = { sender: { deploymentUid: "uid" }, prompt: [1], maxTokens: 1, requestId: "r1" };
    const request = create(GenerateRequestSchema, { ...fields, traceparent: `00-${traceId}-b7ad6b7169203331-01` });
    const { promise, resolve } = Promise.withResolvers<void>();
    const call = Object.assign(new EventEmitter(), {
      request,
      cancelled: false,
      getDeadline: () => Infinity,
      end: resolve,
      write: () => {},
    });
    call.once("error", () => resolve());
    serving(of, { metrics, tracing, log }).generate(call as unknown as Call);
    await promise;
    return lines.map(({ level: at, message, requestId, traceId: trace }) => [at, message, requestId, trace]);
  };
  assert.deepEqual(await linesOf("Internal", "info"), [["warn", "request failed", "r1", traceId]]);
  assert.deepEqual(await linesOf("InvalidRequest", "info"), [], "the caller's own");
  assert.deepEqual(await linesOf("QueueFull", "info"), []);
  assert.deepEqual(await linesOf(undefined, "debug"), [["debug", "request ended", "r1", traceId]]);
  await metrics.close();
});
