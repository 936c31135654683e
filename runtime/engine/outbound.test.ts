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
const noGates = (): Float32Array => assert.fail("no connection asks for sums");

test("after a failure frames fail: those on connections when their connection ends, those under way by Dispatch and later ones at once", {
  timeout: 5_000,
}, async () => {
  let engineEnds = (): void => {};
  const onConnection = new Promise<undefined>((resolve) => {
    engineEnds = () => resolve(undefined);
  });
  const sent: number[] = [];
  const connections = { pending: 0, dispatch: ({ rank }: RemoteFrame) => (rank === 1 ? onConnection : undefined) };
  const outbound = new Outbound(connections, (message) => message.type === "dispatch" && sent.push(message.id));
  const [byEngine, byMain] = [outbound.dispatch(frame(1), noGates), outbound.dispatch(frame(2), noGates)];
  assert.equal(outbound.pending, 1);
  const failed = [byEngine, byMain].map((rows) => assert.rejects(rows, { code: "EngineStopped" }));
  outbound.fail(new AppError("engine: closing", { code: "EngineStopped" }));
  engineEnds();
  await Promise.all(failed);
  await assert.rejects(outbound.dispatch(frame(2), noGates), { code: "EngineStopped" });
  assert.deepEqual(sent, [0], "the main thread is asked for nothing more");
  assert.equal(outbound.pending, 0);
});
