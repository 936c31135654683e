// Traces: each moment of a step is one kind's, the file has what Perfetto reads, a recorder is bounded, and what is recorded computes and
// sends what it would without.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Loopback } from "../../net/collectives/loopback.ts";
import { contextInWorld } from "../worlds/group.ts";
import { chromeTrace, chromeTraceStart } from "./chrome.ts";
import { Recorder, recordedContext, recordedTransport } from "./recorder.ts";
import type { Span } from "./spans.ts";
import { kindOfFrames, movedWithin, timesOf } from "./spans.ts";

const span = (kind: Span["kind"], fromMs: number, toMs: number): Span => ({ kind, name: kind, layer: -1, fromMs, toMs });

test("each moment within a step has one kind: what hides behind computing or rows is not told", () => {
  const spans = [
    span("step", 0, 100),
    span("compute", 0, 40),
    span("spAG", 10, 60), // 20 of it after computing
    span("dispatch", 55, 70), // of which 5 beside copies
    span("spRS", 80, 90),
    span("meeting", 95, 120), // ends after the step
  ];
  const want = { compute: 40, spAG: 15, dispatch: 15, spRS: 10, meeting: 5, host: 15 };
  assert.deepEqual(timesOf(spans), want);
  assert.deepEqual(timesOf(spans.toReversed()), want);
  const outside = timesOf([span("compute", 0, 10)]);
  assert.equal(
    Object.values(outside).reduce((a, b) => a + b, 0),
    0,
  );
});

test("copies and sums are told by what nothing hid of them and by the bytes that left within steps", () => {
  const sent = (kind: Span["kind"], fromMs: number, toMs: number, bytes: number): Span =>
    Object.assign(span(kind, fromMs, toMs), { bytes });
  const spans = [
    ...[span("step", 0, 100), span("compute", 0, 40), sent("spAG", 30, 50, 7), sent("spRS", 90, 110, 5)],
    ...[sent("dispatch", 60, 61, 1000), sent("spRS", 120, 130, 1000)],
  ];
  assert.deepEqual(movedWithin(spans), { exposedMs: 20, bytes: 12 });
});

test("frames have the kind of their exchange, and unknown ones are the step's", () => {
  assert.deepEqual(["copies", "copies again", "sums", "shadow sums", "row gradients", "losses", "else"].map(kindOfFrames), [
    ...["spAG", "spAG", "spRS", "spRS", "dispatch", "meeting", "meeting"],
  ]);
});

test("the file is Chrome's: a process a rank, a track a kind, and overlapping spans in rows of their own", () => {
  const first = [span("step", 0, 10), Object.assign(span("spAG", 1, 5), { layer: 2, bytes: 12 }), span("spAG", 2, 3), span("spAG", 5, 6)];
  const second = [span("compute", 1.5, 2)];
  const text = chromeTrace([
    { name: "rank 0", spans: first },
    { name: "rank 1", spans: second },
  ]);
  assert.ok(text.startsWith(chromeTraceStart));
  const { traceEvents } = JSON.parse(text) as { traceEvents: Record<string, unknown>[] };
  const spans = traceEvents.filter(({ ph }) => ph === "X");
  assert.deepEqual(
    spans.map(({ pid, tid, ts, dur }) => [pid, tid, ts, dur]),
    [
      [1, 1, 0, 10_000],
      [1, 301, 1_000, 4_000],
      [1, 302, 2_000, 1_000],
      [1, 301, 5_000, 1_000],
      [1, 601, 1_000, 4_000],
      [1, 601, 5_000, 1_000],
      [2, 101, 1_500, 500],
    ],
  );
  assert.deepEqual([spans[1]?.name, spans[1]?.args], ["spAG 2", { layer: 2, bytes: 12 }]);
  const names = traceEvents.filter(({ name }) => name === "thread_name").map(({ args }) => (args as { name: string }).name);
  assert.deepEqual(names, ["step", "spAG", "spAG 2", "exposed", "compute"]);
  const processes = traceEvents.filter(({ name }) => name === "process_name").map(({ args }) => (args as { name: string }).name);
  assert.deepEqual(processes, ["rank 0", "rank 1"]);
});

test("a span ends before the next one of its row begins, however both are rounded", () => {
  // In microseconds 0.6 to 1.4, and from 1.4 on: a length of 0.8 would be told as 1, so that the first ended at 2.
  const { traceEvents } = JSON.parse(
    chromeTrace([{ name: "rank 0", spans: [span("compute", 0.0006, 0.0014), span("compute", 0.0014, 0.003)] }]),
  ) as { traceEvents: { ph: string; tid: number; ts: number; dur: number }[] };
  const [one, two] = traceEvents.filter(({ ph }) => ph === "X");
  assert.equal(one?.tid, two?.tid);
  assert.ok(one!.ts + one!.dur <= two!.ts, `${one!.ts} + ${one!.dur} <= ${two!.ts}`);
});

test("what of copies and sums nothing hides is a track of the file, by layer", () => {
  const of = (kind: Span["kind"], layer: number, fromMs: number, toMs: number): Span => Object.assign(span(kind, fromMs, toMs), { layer });
  const spans = [span("step", 0, 100), of("compute", 0, 0, 20), of("spAG", 1, 10, 30), of("spAG", 2, 15, 45), of("spRS", 1, 40, 60)];
  const { traceEvents } = JSON.parse(chromeTrace([{ name: "rank 0", spans }])) as {
    traceEvents: { cat?: string; name: string; ts: number; dur: number }[];
  };
  const exposed = traceEvents.filter(({ cat }) => cat === "exposed").map(({ name, ts, dur }) => [name, ts / 1000, dur / 1000]);
  assert.deepEqual(exposed, [
    ["exposed spAG 1", 20, 10],
    ["exposed spAG 2", 30, 10],
    ["exposed spRS 1", 40, 20],
  ]);
  const { spAG, spRS } = timesOf(spans);
  assert.deepEqual([spAG, spRS], [20, 20]);
});

test("a recorder keeps the last spans, as many as it may, and begins anew once they were taken", async () => {
  let now = 0;
  const recorder = new Recorder(() => now++, 3);
  for (let i = 0; i < 5; i++) await recorder.around({ kind: "compute", name: `${i}`, layer: i }, async () => i);
  assert.deepEqual(
    recorder.take().map(({ name }) => name),
    ["2", "3", "4"],
  );
  await assert.rejects(
    recorder.around({ kind: "compute", name: "fails", layer: 0 }, () => Promise.reject(new Error("no"))),
    /no/,
  );
  assert.deepEqual(
    recorder.take().map(({ name, fromMs, toMs }) => [name, fromMs, toMs]),
    [["fails", 10, 11]],
  );
});

test("a recorded transport passes frames on, with their bytes told", async () => {
  const hub = new Loopback(2);
  const recorder = new Recorder(() => performance.now());
  const stamp = { world: 1, step: 1, plan: "a" };
  const name = { what: "rows", layer: 3, chunk: 0, piece: 0 };
  await recordedTransport(hub.transport(0), recorder).send(1, stamp, name, Float32Array.of(1, 2));
  const got = await recordedTransport(hub.transport(1), recorder).receive(0, stamp, Object.assign({ length: 2 }, name));
  assert.deepEqual(got, Float32Array.of(1, 2));
  assert.deepEqual(
    recorder.take().map((each) => [each.name, each.kind, each.layer, each.bytes, each.peer]),
    [
      ["send rows", "dispatch", 3, 8, 1],
      ["receive rows", "dispatch", 3, undefined, 0],
    ],
  );
});

test("of worlds that meet, frames of both ways are recorded, and say who is at the other end among all", async () => {
  const hub = new Loopback(4);
  const recorder = new Recorder(() => performance.now());
  const facts = { node: [0, 1, 2, 3], speed: [1, 1, 1, 1] };
  const own = recordedContext(contextInWorld({ transport: hub.transport(3), world: 1, facts }, 2), recorder);
  const stamp = { world: 1, step: 1, plan: "a" };
  const [within, beyond] = ["rows", "outer"].map((what) => ({ what, layer: 0, chunk: 0, piece: 0 }));
  await own.transport.send(0, stamp, within!, Float32Array.of(1));
  await own.group?.transport.send(1, stamp, beyond!, Float32Array.of(1));
  assert.deepEqual(
    recorder.take().map(({ name, kind, peer }) => [name, kind, peer]),
    [
      ["send rows", "dispatch", 2],
      ["send outer", "meeting", 1],
    ],
  );
});
