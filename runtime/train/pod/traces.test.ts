// The trace that a pod tells: a line for each step while somebody asks and nothing else, within its bounds, and to nobody who is gone.

import assert from "node:assert/strict";
import { connect } from "node:net";
import { type TestContext, test } from "node:test";
import { type Span, stepSpansMax, tracedStepSchema, tracedStepsMax, tracePath } from "../../../crds/training-trace.ts";
import { until } from "../../../test/kit/wait.ts";
import { backlogBytesMax, listenForTraces, StepTraces, type TraceServer } from "./trace-server.ts";

const span: Span = { kind: "compute", name: "block forward", layer: 1, fromMs: 1.23456789, toMs: 2 };

test("a step is told to those who watch, in microseconds, and is not even looked at without one", () => {
  const traces = new StepTraces();
  const unread = new Proxy<Span[]>([], {
    get() {
      throw new Error("looked at");
    },
  });
  traces.ended(1, unread);
  const lines: string[] = [];
  const unwatch = traces.watch((line) => void lines.push(line));
  assert.throws(() => traces.ended(1, unread), /looked at/);
  traces.begins(3, 1);
  traces.ended(7, [span]);
  unwatch();
  traces.ended(8, [span]);
  const reported = { epoch: 3, group: 1, step: 7, spans: [{ ...span, fromMs: 1.235 }] };
  assert.deepEqual(
    lines.map((line) => tracedStepSchema.parse(JSON.parse(line))),
    [reported],
  );
});

test("a step with more spans than are kept says so", () => {
  const traces = new StepTraces();
  traces.begins(1, 0);
  let line = "";
  traces.watch((text) => {
    line = text;
  });
  traces.ended(1, new Array<Span>(stepSpansMax - 1).fill(span));
  assert.ok(!line.includes('"cut":true'));
  traces.ended(1, new Array<Span>(stepSpansMax).fill(span));
  assert.ok(line.endsWith(',"cut":true}\n'));
});

interface Served {
  readonly traces: StepTraces;
  readonly server: TraceServer;
  /** Those who are told. */
  watching(): number;
}
async function served(t: TestContext): Promise<Served> {
  const traces = new StepTraces();
  traces.begins(1, 0);
  let watching = 0;
  const counted: Pick<StepTraces, "watch"> = {
    watch(watcher) {
      const unwatch = traces.watch(watcher);
      const own = { is: true };
      watching += 1;
      return () => {
        watching -= Number(own.is);
        own.is = false;
        unwatch();
      };
    },
  };
  const server = await listenForTraces({ host: "127.0.0.1", pod: "uid", traces: counted, originMs: () => 5, port: 0 });
  t.after(() => server.close());
  return { traces, server, watching: () => watching };
}

test("one who does not read is let go, and takes no more memory than is said; one who reads is told on, and a fifth is refused", {
  timeout: 60_000,
}, async (t) => {
  const { traces, server, watching } = await served(t);
  const deaf = connect(server.port, "127.0.0.1").pause();
  t.after(() => deaf.destroy());
  deaf.write(`GET ${tracePath} HTTP/1.1\r\nhost: pod\r\n\r\n`);
  await until("it to be told", () => watching() === 1);
  const ends = new AbortController();
  t.after(() => ends.abort());
  const ask = () => fetch(`http://127.0.0.1:${server.port}${tracePath}`, { signal: ends.signal });
  const [reads] = await Promise.all([ask(), ask(), ask()]);
  assert.equal((await ask()).status, 429);
  const body = reads.body?.getReader();
  const spans = new Array<Span>(10_000).fill({ ...span, fromMs: 1 });
  const lineBytes = JSON.stringify(spans).length; // less than the line
  let reported = 0;
  for (; watching() > 1 && reported * lineBytes < 10 * backlogBytesMax; reported++) {
    traces.ended(reported + 1, spans);
    for (let read = 0; read < lineBytes; ) read += (await body?.read())?.value?.length ?? lineBytes;
  }
  assert.equal(watching(), 1, `${reported} lines of ${lineBytes} bytes`);
  assert.ok(reported * lineBytes > backlogBytesMax);
});

test("one who asks is told so many steps and no more, other paths are refused, and a port that is taken is said", async (t) => {
  const { traces, server, watching } = await served(t);
  const at = (path: string) => fetch(`http://127.0.0.1:${server.port}${path}`);
  assert.equal((await at("/")).status, 404);
  const answer = await at(tracePath);
  assert.equal(watching(), 1);
  for (let step = 1; step <= tracedStepsMax + 1; step++) traces.ended(step, [span]);
  const [head, ...steps] = (await answer.text()).trimEnd().split("\n");
  assert.deepEqual(JSON.parse(head ?? ""), { pod: "uid", originMs: 5 });
  assert.equal(steps.length, tracedStepsMax);
  assert.equal(JSON.parse(steps.at(-1) ?? "").step, tracedStepsMax);
  assert.ok(watching() === 0, "nobody is told any more");
  const taken = { host: "127.0.0.1", pod: "uid", traces, originMs: () => 5, port: server.port };
  await assert.rejects(listenForTraces(taken), { code: "ListenFailed", message: /trace port \d+: .*EADDRINUSE/ });
});
