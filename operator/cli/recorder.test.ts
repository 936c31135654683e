import assert from "node:assert/strict";
import { test } from "node:test";
import { encodeLoad, type LoadWindow } from "../../crds/telemetry.ts";
import { decodeTrace, encodeTrace } from "../planner/traces.ts";
import { listen } from "./commands/plan-record.ts";
import { Recorder } from "./recorder.ts";

const load = (change: Partial<LoadWindow> = {}): Uint8Array =>
  new TextEncoder().encode(
    encodeLoad({
      ...{ v: 1, deploymentUID: "u", rank: 0, bootId: "b", seq: 1, windowStart: 0, windowEnd: 5, phase: "decode", layers: 2, experts: 2 },
      ...{ routed: Uint32Array.of(1, 2, 3, 4), served: Uint32Array.of(9, 9, 9, 9) },
      ...change,
    }),
  );

test("a trace has what all ranks and both phases routed, window by window, and may be read again", async () => {
  const recorder = new Recorder("u", undefined);
  recorder.receive(load());
  recorder.receive(load({ rank: 1, phase: "prefill" }));
  assert.equal(recorder.close(), 20);
  assert.equal(recorder.close(), 0, "a window without a message is not kept");
  recorder.receive(load({ seq: 2 }));
  recorder.close();
  const read = await decodeTrace(await encodeTrace(recorder.trace("t")));
  assert.deepEqual([read.windows, read.layers, read.experts, [...read.counts]], [2, 2, 2, [2, 4, 6, 8, 1, 2, 3, 4]]);
  assert.equal(read.transitions, undefined);
});

test("transitions of all ranks and windows are added up", async () => {
  const recorder = new Recorder("u", undefined);
  const flow = (cell: number, count: number) => ({ transitions: { cells: Uint32Array.of(cell), counts: Uint32Array.of(count) } });
  recorder.receive(load(flow(2, 5)));
  recorder.close();
  recorder.receive(load({ seq: 2, ...flow(2, 1) }));
  recorder.receive(load({ rank: 1, ...flow(0, 3) }));
  recorder.close();
  const read = await decodeTrace(await encodeTrace(recorder.trace("t")));
  assert.deepEqual([...(read.transitions ?? [])], [3, 0, 6, 0]);
  assert.equal(recorder.transitions, 9);
});

const refused: Record<string, Uint8Array> = {
  "another deployment's": load({ deploymentUID: "x", seq: 2 }),
  "one of another shape": load({ experts: 1, routed: new Uint32Array(2), served: new Uint32Array(2), seq: 2 }),
  "one delivered twice": load(),
  "one that is no load message": new TextEncoder().encode("{}"),
};
for (const [name, bytes] of Object.entries(refused)) {
  test(`${name} message is refused and counted`, () => {
    const recorder = new Recorder("u", undefined);
    recorder.receive(load());
    recorder.receive(bytes);
    assert.deepEqual([recorder.messages, recorder.refused, recorder.close()], [1, 1, 10]);
  });
}

test("one phase alone is recorded when asked for", () => {
  const recorder = new Recorder("u", "prefill");
  recorder.receive(load());
  assert.equal(recorder.close(), 0);
  recorder.receive(load({ seq: 2, phase: "prefill" }));
  assert.equal(recorder.close(), 10);
});

test("recording listens to the subject for so many windows and lets go of it", async () => {
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
  const recorder = new Recorder("u", undefined);
  const windows = await listen(bus, recorder, { subject: "enodia.v1.ns.moe.load.*", windows: 3, windowMs: 40 });
  clearInterval(traffic);
  assert.deepEqual([windows, handler], [3, undefined]);
  assert.equal(recorder.trace("t").counts.length, 12);
});
