// A frame that fails here is counted, reported and traced, since its caller is told no more than to ask again.
import assert from "node:assert/strict";
import { test } from "node:test";
import { AppError } from "../../../crds/common.ts";
import type { RowsFrame } from "../../net/rows-codec.ts";
import { notHosted } from "../../placement/frames/not-hosted.ts";
import type { PeerView } from "../api.ts";
import { PeerCounters } from "./peer-counters.ts";
import { RowsServer } from "./rows-server.ts";

const hidden = 4;
const frame = { layer: 0, epoch: 1, decode: true, pairRows: Uint32Array.of(0), pairExperts: Uint32Array.of(1), onDemand: false };

test("a frame whose compute fails is counted as an error, with a problem and an ended span", async () => {
  const counters = new PeerCounters();
  const server = new RowsServer({
    model: { layers: 1, experts: 2, hidden },
    view: () => ({ serves: [1], epochs: [1] }) as unknown as PeerView,
    serve: () => Promise.reject(new Error("the device is lost")),
    onDemand: () => assert.fail("it is hosted"),
    onFrames: () => {},
    counters,
  });
  const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  const asked = { ...frame, gates: undefined, traceparent } as unknown as RowsFrame;
  await assert.rejects(server.answer(asked, new Uint8Array(hidden * 4), 1), /the device is lost/);
  const counts = counters.take(0, 0);
  assert.equal(counts?.served.results.error, 1);
  assert.match(counts.problems[0] ?? "", /^a frame of layer 0 failed: .*the device is lost/);
  assert.deepEqual(
    counts.spans.map(({ name, attributes }) => [name, attributes["enodia.result"]]),
    [["experts.serve", "error"]],
  );
});

test("a frame for which this rank may load no more now is busy, and counted so", async () => {
  const counters = new PeerCounters();
  const server = new RowsServer({
    model: { layers: 1, experts: 2, hidden },
    view: () => ({ serves: [1], epochs: [1], self: { rank: 0 } }) as unknown as PeerView,
    serve: () => Promise.reject(notHosted([1], "not in memory")),
    onDemand: () => Promise.reject(new AppError("too many bytes", { code: "Busy" })),
    onFrames: () => {},
    counters,
  });
  const answer = await server.answer({ ...frame, onDemand: true } as unknown as RowsFrame, new Uint8Array(hidden * 4), 1);
  assert.equal("type" in answer && answer.type, "busy");
  assert.equal(counters.take(0, 0)?.served.results.busy, 1);
});
