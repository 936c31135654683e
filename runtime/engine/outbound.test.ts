// Frames that wait when an engine closes: none of them waits on, whichever way it went.
import assert from "node:assert/strict";
import { test } from "node:test";
import { AppError } from "../../crds/common.ts";
import type { RemoteFrame } from "./api.ts";
import { Outbound } from "./outbound.ts";

const frame = (rank: number): RemoteFrame => ({
  ...{ rank, layer: 0, epoch: 1, phase: "decode", rows: new Float32Array(4) },
  ...{ pairRows: Uint32Array.of(0), pairExperts: Uint32Array.of(0) },
});
const noGates = (): Float32Array => assert.fail("no lane asks for sums");

test("after a failure frames fail: those on lanes when their lane ends, those under way by Dispatch and later ones at once", {
  timeout: 5_000,
}, async () => {
  let laneEnds = (): void => {};
  const onLane = new Promise<undefined>((resolve) => {
    laneEnds = () => resolve(undefined);
  });
  const sent: number[] = [];
  const lanes = { pending: 0, dispatch: ({ rank }: RemoteFrame) => (rank === 1 ? onLane : undefined) };
  const outbound = new Outbound(lanes, (message) => message.type === "dispatch" && sent.push(message.id));
  const [byLane, byMain] = [outbound.dispatch(frame(1), noGates), outbound.dispatch(frame(2), noGates)];
  assert.equal(outbound.pending, 1);
  const failed = [byLane, byMain].map((rows) => assert.rejects(rows, { code: "EngineStopped" }));
  outbound.fail(new AppError("engine: closing", { code: "EngineStopped" }));
  laneEnds();
  await Promise.all(failed);
  await assert.rejects(outbound.dispatch(frame(2), noGates), { code: "EngineStopped" });
  assert.deepEqual(sent, [0], "the main thread is asked for nothing more");
  assert.equal(outbound.pending, 0);
});
