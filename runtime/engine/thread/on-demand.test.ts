// Frames that wait for a load hold bytes for up to half a minute, so that they have a bound of their own.
import assert from "node:assert/strict";
import { test } from "node:test";
import { frameBytesMax } from "../../net/frame-codec.ts";
import type { OnDemandFrame } from "../api.ts";
import { OnDemandCalls, onDemandBytesMax } from "./on-demand.ts";

test("frames beyond the bytes that loads may hold are busy, and taken again when one is answered", async () => {
  const sent: number[] = [];
  const calls = new OnDemandCalls((message) => void (message.type === "runOnDemand" && sent.push(message.id)));
  const frame = { rows: new Float32Array(frameBytesMax / 4) } as OnDemandFrame;
  const fitting = onDemandBytesMax / frameBytesMax;
  const waiting = Array.from({ length: fitting }, () => calls.run(frame));
  await assert.rejects(calls.run(frame), { code: "Busy" });
  const rows = new Float32Array(1);
  calls.answered({ type: "ranOnDemand", id: sent[0] as number, rows });
  assert.equal(await waiting[0], rows);
  waiting.push(calls.run(frame));
  assert.equal(sent.length, fitting + 1);
  for (const id of sent.slice(1)) calls.answered({ type: "ranOnDemand", id, rows });
  await Promise.all(waiting);
  const whole = { rows: new Float32Array(onDemandBytesMax / 4 + 1) } as OnDemandFrame;
  void calls.run(whole);
  assert.equal(sent.length, fitting + 2, "one frame is always taken");
});
