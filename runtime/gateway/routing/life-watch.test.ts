// The watch over a worker's life, with a stream and a time that the test makes.
import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import { test } from "node:test";
import { AppError } from "../../../crds/common.ts";
import { LifeWatch, lookEveryMs } from "./life-watch.ts";

class Stream extends EventEmitter {
  cancelled = false;
  cancel(): void {
    this.cancelled = true;
  }
}

function watching() {
  const streams: Stream[] = [];
  const told: string[] = [];
  let now = 50_000;
  const watch = new LifeWatch({
    rank: 1,
    open: () => {
      const stream = new Stream();
      streams.push(stream);
      return stream;
    },
    onAway: ({ code }, { again, anew }) => told.push(`${code}${again ? " again" : ""}${anew ? ", anew" : ""}`),
    onBack: () => told.push("back"),
  });
  const look = (ms = lookEveryMs) => {
    now += ms;
    watch.look(now);
  };
  /** Looks until something is told, or for so long. */
  const pass = (ms: number): number => {
    const [from, before] = [now, told.length];
    while (now - from < ms && told.length === before) look();
    return now - from;
  };
  const sign = (nextMs = 400) => streams.at(-1)?.emit("data", { nextMs });
  look();
  return { watch, streams, told, look, pass, sign };
}

test("a worker that says nothing is away within 2 s, asked anew on another connection, and back with its first word", () => {
  const { watch, streams, told, look, pass, sign } = watching();
  sign();
  const ms = pass(10_000);
  assert.ok(ms > 1_000 && ms <= 2_000, `${ms} ms`);
  assert.deepEqual(told, ["Silent, anew"]);
  assert.equal(streams[0]?.cancelled, true);
  look();
  assert.equal(streams.length, 2);
  assert.ok(pass(10_000) <= 2_500);
  for (let i = 0; i < 2; i++) {
    look();
    assert.ok(pass(10_000) <= 2_500);
  }
  assert.deepEqual(told.slice(1), ["Silent again", "Silent again", "Silent again, anew"], "a connection that is slow to stand has time");
  look();
  sign();
  assert.equal(watch.away, false);
  assert.deepEqual(told.slice(4), ["back"]);
});

test("one that speaks is never away, nor is one heard in a request's stream", () => {
  const { watch, told, look, sign } = watching();
  for (let i = 0; i < 100; i++) {
    look();
    if (i % 2 === 0) sign();
    else watch.heard();
  }
  assert.deepEqual(told, []);
});

test("while this process stood still it heard nobody, and holds it against nobody", () => {
  const { told, look, sign } = watching();
  sign();
  look();
  look(8_000);
  assert.deepEqual(told, []);
  sign();
  look(8_000);
  assert.deepEqual(told, []);
});

test("one that was only slow is left later the next time; one that restarted is not", () => {
  const slow = watching();
  slow.sign();
  slow.pass(10_000);
  slow.look();
  slow.sign();
  slow.told.length = 0;
  assert.ok(slow.pass(10_000) > 2_500);
  const restarted = watching();
  restarted.sign();
  restarted.streams[0]?.emit("error", new AppError("reset", { code: "Unavailable" }));
  restarted.look();
  restarted.sign();
  assert.ok(restarted.pass(10_000) <= 2_000);
  assert.deepEqual(restarted.told, ["Unavailable, anew", "back", "Silent, anew"]);
});

test("a broken connection is known at once", () => {
  const { streams, told } = watching();
  streams[0]?.emit("error", new AppError("reset", { code: "Unavailable" }));
  assert.deepEqual(told, ["Unavailable"], "the transport connects again by itself");
});

test("a worker that refuses the stream is away, and is asked again much later", () => {
  const { watch, streams, told, look, sign } = watching();
  streams[0]?.emit("error", new AppError("not implemented", { code: "Unimplemented" }));
  for (let i = 0; i < 16; i++) look();
  assert.equal(streams.length, 1);
  for (let i = 0; i < 8; i++) look();
  assert.equal(streams.length, 2);
  assert.deepEqual([watch.away, told], [true, ["Unimplemented"]]);
  sign();
  assert.deepEqual([watch.away, told.at(-1)], [false, "back"]);
});

test("one that shuts down cancels the stream, and is away at once", () => {
  const { watch, streams, told, sign } = watching();
  sign();
  streams[0]?.emit("error", new AppError("cancelled", { code: "Cancelled" }));
  assert.deepEqual([watch.away, told], [true, ["Cancelled, anew"]]);
});

test("one that announces rare signs has longer, up to a bound", () => {
  const { told, pass, sign } = watching();
  sign(1_000);
  assert.ok(pass(2_750) >= 2_750);
  sign(3_600_000);
  assert.ok(pass(60_000) <= 10_500);
  assert.deepEqual(told, ["Silent, anew"]);
});

test("a watch that was stopped says nothing more", () => {
  const { watch, streams, told, look } = watching();
  watch.stop();
  assert.equal(streams[0]?.cancelled, true);
  streams[0]?.emit("error", new AppError("cancelled", { code: "Unavailable" }));
  for (let i = 0; i < 40; i++) look();
  assert.deepEqual([streams.length, told], [1, []]);
});
