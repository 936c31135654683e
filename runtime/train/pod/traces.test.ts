// The trace that a pod streams: lines of OTLP's JSON for each step while somebody asks and nothing else, within its bounds, and to nobody
// who is gone.

import assert from "node:assert/strict";
import { connect } from "node:net";
import { Readable } from "node:stream";
import { type TestContext, test } from "node:test";
import { tracedStepsMax, tracePath } from "../../../crds/training-process.ts";
import { until } from "../../../test/kit/wait.ts";
import { otlpTraces } from "../../observe/otlp.ts";
import type { Span } from "../trace/spans.ts";
import { stepsIn } from "../trace/traced-step.ts";
import { listenForTraces, StepTraces, waitingSpansMax } from "./trace-server.ts";

const span = { kind: "compute", name: "block forward", layer: 1, fromMs: 1.25, toMs: 2, rows: 3 } as const;
const whole = { kind: "step", name: "step 7", layer: -1, fromMs: 1, toMs: 3 } as const;
const originMs = Date.now();

async function served(t: TestContext) {
  const traces = new StepTraces();
  traces.begins(3, 1);
  const attributes = { "k8s.pod.uid": "uid", "enodia.rank": 2 };
  const options = { host: "127.0.0.1", port: 0, job: "job", attributes, traces, originMs: () => originMs };
  const server = await listenForTraces(options);
  t.after(() => server.close());
  const ask = (signal?: AbortSignal, path = tracePath) => fetch(`http://127.0.0.1:${server.port}${path}`, { signal: signal ?? null });
  return { traces, server, options, ask, watching: () => traces.listenerCount("step") };
}

/** What is read until a step has ended. */
async function stepFrom(reader: ReadableStreamDefaultReader<Uint8Array> | undefined): Promise<string> {
  let text = "";
  while (!text.endsWith("\n") || !text.includes('"step 7"')) {
    const { value, done } = (await reader?.read()) ?? { done: true };
    assert.ok(!done, "the trace has ended");
    text += Buffer.from(value).toString();
  }
  return text;
}

test("a step is read back as it was recorded, by the schema of any OTLP span, and its spans are one trace", async (t) => {
  const { traces, ask, watching } = await served(t);
  traces.ended(6, [whole]);
  const reader = (await ask()).body?.getReader();
  const many = [...new Array<Span>(5_000).fill(span), whole, { ...span, bytes: 9, peer: 1 }];
  traces.ended(7, many);
  const texts = (await stepFrom(reader)).trimEnd().split("\n");
  await reader?.cancel();
  await until("nobody to be told", () => watching() === 0);
  const parts = texts.flatMap((line) => otlpTraces.parse(JSON.parse(line)).resourceSpans);
  for (const { resource } of parts)
    assert.deepEqual(resource.attributes, { "service.name": "enodia-trainer", "k8s.pod.uid": "uid", "enodia.rank": 2 });
  const spans = parts.flatMap(({ scopeSpans }) => scopeSpans.flatMap((scope) => scope.spans));
  assert.equal(new Set(spans.map(({ traceId }) => traceId)).size, 1);
  const root = spans.at(-1);
  assert.ok(spans.every(({ parentSpanId }, i) => (i === spans.length - 1 ? !parentSpanId : parentSpanId === root?.spanId)));
  const steps = await Readable.from(stepsIn(Readable.from(texts), { pod: "pod", uid: "uid" })).toArray();
  const moved = (each: Span): Span => ({ ...each, fromMs: originMs + each.fromMs, toMs: originMs + each.toMs });
  assert.deepEqual(steps, [{ epoch: 3, group: 1, step: 7, spans: [...many.filter((each) => each !== whole), whole].map(moved) }]);
});

test("one who does not read is let go, and takes no more memory than is said; one who reads is told on, and a fifth is refused", {
  timeout: 60_000,
}, async (t) => {
  const { traces, server, ask, watching } = await served(t);
  const deaf = connect(server.port, "127.0.0.1").pause();
  t.after(() => deaf.destroy());
  deaf.write(`GET ${tracePath} HTTP/1.1\r\nhost: pod\r\n\r\n`);
  await until("it to be told", () => watching() === 1);
  const ends = new AbortController();
  t.after(() => ends.abort());
  const [reads] = await Promise.all([ask(ends.signal), ask(ends.signal), ask(ends.signal)]);
  const refused = await ask();
  assert.deepEqual([refused.status, /^4 are served already: .*\n$/.test(await refused.text())], [429, true]);
  const body = reads.body?.getReader();
  const spans = [...new Array<Span>(10_000).fill(span), whole];
  let reported = 0;
  for (; watching() > 1 && reported * spans.length < 10 * waitingSpansMax; reported++) {
    traces.ended(reported + 1, spans);
    await stepFrom(body);
  }
  assert.equal(watching(), 1, `${reported} steps`);
  assert.ok(reported * spans.length > waitingSpansMax);
});

test("one who asks is told so many steps and no more, other paths are refused, and a port that is taken is said", async (t) => {
  const { traces, server, options, ask, watching } = await served(t);
  assert.equal((await ask(undefined, "/")).status, 404);
  const answer = await ask();
  assert.equal(watching(), 1);
  for (let step = 1; step <= tracedStepsMax + 1; step++) traces.ended(step, [whole]);
  const steps = (await answer.text()).trimEnd().split("\n");
  assert.equal(steps.length, tracedStepsMax);
  assert.equal(watching(), 0, "nobody is told any more");
  await assert.rejects(listenForTraces({ ...options, port: server.port }), {
    code: "ListenFailed",
    message: /trace port \d+: .*EADDRINUSE/,
  });
});
