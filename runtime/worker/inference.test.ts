// The Inference service alone: what of the engine's events a caller sees when a request ends before its time.
import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import { test } from "node:test";
import type { Engine } from "../engine/engine.ts";
import { silentLog } from "../observe/log.ts";
import { createMetrics } from "../observe/metrics.ts";
import { createTracing } from "../observe/trace.ts";
import { type GenerateEvent, GenerateRequestSchema } from "../wire/gen/enodia/runtime/v1/runtime_pb.js";
import { create } from "../wire/service.ts";
import { createInferenceServer } from "./inference.ts";
import { ServiceRecord } from "./service-record.ts";

/** Queues a request and never gives it a slot. */
const engine: Pick<Engine, "generate"> = {
  async *generate({ signal }) {
    yield { type: "queued", queuedTokens: 1 };
    await new Promise((resolve) => signal?.addEventListener("abort", resolve, { once: true }));
    yield { type: "finish", reason: "cancelled", outputTokens: 0 };
  },
};

test("a request whose deadline passes ends with that error, and with no finish that looks like the worker's", async () => {
  const metrics = createMetrics({ process: "worker", version: "0", constants: {} });
  const record = new ServiceRecord();
  const service = createInferenceServer({
    ...{
      engine,
      deploymentUid: "uid",
      caller: () => ({ role: "gateway", podName: undefined }),
      notReady: () => undefined,
      refuses: () => false,
      onGap: () => {},
      record,
    },
    ...{ metrics, tracing: await createTracing({ service: "worker" }), log: silentLog },
  });
  const written: GenerateEvent[] = [];
  const request = create(GenerateRequestSchema, {
    ...{ sender: { deploymentUid: "uid" }, prompt: [1], maxTokens: 1, deadlineUnixMs: BigInt(Date.now() + 20) },
  });
  const call = Object.assign(new EventEmitter(), {
    ...{ request, cancelled: false, end: () => {}, write: (event: GenerateEvent) => void written.push(event) },
  });
  const failed = new Promise<{ metadata: { get(key: string): unknown[] } }>((resolve) => call.once("error", resolve));
  service.generate(call as unknown as Parameters<typeof service.generate>[0]);
  assert.deepEqual((await failed).metadata.get("enodia-code"), ["DeadlineExceeded"]);
  assert.deepEqual(
    written.map(({ event }) => event.case),
    ["queued"],
  );
  assert.deepEqual([record.totals.requests, record.totals.failed], [1, 1]);
  await metrics.close();
});
