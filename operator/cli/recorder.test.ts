import assert from "node:assert/strict";
import { test } from "node:test";
import { encodeLoad, type LoadWindow } from "../../crds/telemetry.ts";
import { signedLoad, telemetryKey } from "../../test/kit/ranks/telemetry-keys.ts";
import { decodeTrace, encodeTrace } from "../planner/offline/traces.ts";
import { listen } from "./commands/plan-record.ts";
import { gridIn, type Member, membersOf, Recorder } from "./recorder.ts";

/** Each in a window of its own, by its number. */
const message = (change: Partial<LoadWindow> = {}): LoadWindow => ({
  ...{ v: 1, deploymentUID: "u", rank: 0, bootId: "b", seq: 1, phase: "decode", layers: 2, experts: 2 },
  ...{ windowStart: 5 * (change.seq ?? 1), windowEnd: 5 * (change.seq ?? 1) + 5 },
  ...{ routed: Uint32Array.of(1, 2, 3, 4), served: Uint32Array.of(9, 9, 9, 9) },
  ...change,
});
const load = (change: Partial<LoadWindow> = {}): Uint8Array => signedLoad(message(change));
const recorderOf = (uid: string, phase: "prefill" | "decode" | undefined) => new Recorder(uid, phase, () => [telemetryKey(1)]);
const idle = { routed: new Uint32Array(4) };
/** Both phases of a rank, as workers send them: the counts are in decode. */
function report(recorder: Recorder, change: Partial<LoadWindow> = {}): void {
  const seq = 2 * (change.seq ?? 1);
  recorder.receive(load({ ...change, seq }));
  recorder.receive(load({ ...change, ...idle, seq: seq + 1, phase: "prefill" }));
}
const serving = (...ranks: number[]): Member[] => ranks.map((rank) => ({ rank, bootId: "b", serves: true }));
const counted = (selections: number) => ({ counted: true, selections, missing: [], unknown: [] });
const leftOut = (missing: number[], unknown: number[] = []) => ({ counted: false, selections: 0, missing, unknown });

test("a trace has what all ranks and both phases routed, window by window, and may be read again", async () => {
  const recorder = recorderOf("u", undefined);
  recorder.receive(load());
  recorder.receive(load({ seq: 2, phase: "prefill" }));
  report(recorder, { rank: 1 });
  assert.deepEqual(recorder.close(serving(0, 1)), counted(30));
  report(recorder, { seq: 2 });
  report(recorder, { rank: 1, seq: 2 });
  assert.deepEqual(recorder.close(serving(0, 1)), counted(20));
  const read = await decodeTrace(await encodeTrace(recorder.trace("t")));
  assert.deepEqual([read.name, read.windows, read.layers, read.experts], ["t", 2, 2, 2]);
  assert.deepEqual([...read.counts], [3, 6, 9, 12, 2, 4, 6, 8]);
  assert.deepEqual([recorder.messages, recorder.refused], [8, 0]);
});

test("a trace has the number of experts of each layer, as the plan has rows for them", async () => {
  const layer = (index: number, hosts: string) => ({ layer: index, epoch: 1, hosts, weights: hosts.replaceAll(/\d+/g, "1000") });
  const recorder = recorderOf("u", undefined);
  report(recorder, { routed: Uint32Array.of(7, 0, 3, 4) });
  recorder.close(serving(0));
  const read = await decodeTrace(await encodeTrace(recorder.trace("t", gridIn({ layers: [layer(1, "0,1"), layer(0, "0")] }))));
  assert.deepEqual([read.layers, read.experts, read.layerExperts, [...read.counts]], [2, 2, [1, 2], [7, 0, 3, 4]]);
  assert.equal(recorder.trace("t", gridIn({ layers: [layer(0, "0"), layer(1, "0,1,0")] })).layerExperts, undefined, "of another model");
});

test("a window in which a rank said nothing, or of one phase only, is left out, and the trace's name says so", async () => {
  const recorder = recorderOf("u", undefined);
  report(recorder);
  assert.deepEqual(recorder.close(serving(0, 1)), leftOut([1]));
  report(recorder, { seq: 2 });
  recorder.receive(load({ rank: 1 }));
  assert.deepEqual(recorder.close(serving(0, 1)), leftOut([1]));
  assert.deepEqual(recorder.close(serving(0)), leftOut([0]), "silence");
  assert.deepEqual(recorder.close([]), leftOut([]), "nobody serves");
  report(recorder, { seq: 3 });
  report(recorder, { rank: 1, seq: 3, ...idle });
  assert.deepEqual(recorder.close(serving(0, 1)), counted(10), "a rank without traffic says so");
  const read = await decodeTrace(await encodeTrace(recorder.trace("t")));
  assert.deepEqual([read.name, [...read.counts]], ["t (4 of 5 windows left out: not every rank reported)", [1, 2, 3, 4]]);
});

test("a process that the plan does not name is refused: an old boot counts nothing, and its rank is missing while the new one is silent", () => {
  const recorder = recorderOf("u", undefined);
  report(recorder, { bootId: "old" });
  assert.deepEqual(recorder.close(serving(0)), leftOut([0]));
  report(recorder, { bootId: "old", seq: 2 });
  report(recorder, { seq: 1 });
  assert.deepEqual(recorder.close(serving(0)), counted(10));
  assert.deepEqual([recorder.messages, recorder.refused], [2, 4]);
});

test("tokens of a rank that nobody knows yet make a window incomplete, a rank that joins and idles does not", () => {
  const recorder = recorderOf("u", undefined);
  report(recorder);
  report(recorder, { rank: 7 });
  assert.deepEqual(recorder.close(serving(0)), leftOut([], [7]));
  report(recorder, { seq: 2 });
  report(recorder, { rank: 7, seq: 2, ...idle });
  assert.deepEqual(recorder.close([...serving(0), { rank: 1, bootId: "b", serves: false }]), counted(10));
});

test("ranks that are active or drain have to report, others may", () => {
  const ranks = ["active", "draining", "joining", "lost"].map((state, rank) => ({ rank, state, bootId: "b" }));
  const members = membersOf({ ranks: [...ranks, { rank: 9, state: "active" }] });
  assert.deepEqual(
    members.map(({ rank, serves }) => [rank, serves]),
    [
      [0, true],
      [1, true],
      [2, false],
      [3, false],
    ],
  );
});

const refused: Record<string, Uint8Array> = {
  "another deployment's": load({ deploymentUID: "x", seq: 2 }),
  "one of another shape": load({ experts: 1, routed: new Uint32Array(2), served: new Uint32Array(2), seq: 2 }),
  "one delivered twice": load(),
  "one without a signature": new TextEncoder().encode(encodeLoad(message({ seq: 2 }))),
  "one that another key has signed": signedLoad(message({ seq: 2 }), telemetryKey(2)),
  "one that jumps ahead": load({ seq: 2 ** 32, windowStart: 20, windowEnd: 30 }),
};
for (const [name, bytes] of Object.entries(refused)) {
  test(`${name} message is refused and counted`, () => {
    const recorder = recorderOf("u", "decode");
    recorder.receive(load());
    recorder.receive(bytes);
    assert.deepEqual(recorder.close(serving(0)), counted(10));
    assert.deepEqual([recorder.messages, recorder.refused], [1, 1]);
  });
}

test("one phase alone is recorded when asked for", () => {
  const recorder = recorderOf("u", "prefill");
  recorder.receive(load());
  assert.deepEqual(recorder.close(serving(0)), leftOut([0]));
  recorder.receive(load({ seq: 2, phase: "prefill" }));
  assert.deepEqual(recorder.close(serving(0)), counted(10));
});

test("recording listens to the subject for so many windows, asks at the end of each who had to report, and lets go of it", async () => {
  let handler: ((bytes: Uint8Array, subject: string) => void) | undefined;
  const bus = {
    subscribe: (subject: string, receive: typeof handler) => {
      assert.equal(subject, "enodia.v1.ns.moe.load.*");
      handler = receive;
      return () => {
        handler = undefined;
      };
    },
  };
  let seq = 0;
  const traffic = setInterval(() => handler?.(load({ seq: ++seq }), ""), 5);
  const recorder = recorderOf("u", "decode");
  let asked = 0;
  const members = async () => serving(...(++asked === 2 ? [0, 1] : [0]));
  const windows = await listen(bus, recorder, { members, subject: "enodia.v1.ns.moe.load.*", windows: 4, windowMs: 40 });
  clearInterval(traffic);
  assert.deepEqual([windows, recorder.dropped, asked, handler], [3, 1, 4, undefined]);
  assert.equal(recorder.trace("t").counts.length, 12);
});
