// Server-sent events: read on demand, kept alive while nothing comes, ended when the client goes or never reads.
import assert from "node:assert/strict";
import { test } from "node:test";
import { sseBody, sseComment, sseData } from "./sse.ts";

const text = (bytes: Uint8Array | undefined) => new TextDecoder().decode(bytes);

async function* counting(state: { made: number; closed: boolean }, count: number): AsyncGenerator<string, void, void> {
  try {
    while (state.made < count) yield sseData({ i: state.made++ });
  } finally {
    state.closed = true;
  }
}

test("the source is asked only when the client reads", async () => {
  const state = { made: 0, closed: false };
  const reader = sseBody(counting(state, 1000), () => {}, { lifetimeMs: 60_000 }).getReader();
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal(state.made, 0);
  for (let read = 1; read <= 5; read++) {
    assert.equal(text((await reader.read()).value), `data: {"i":${read - 1}}\n\n`);
    await new Promise((resolve) => setImmediate(resolve));
    assert.equal(state.made, read);
  }
  await reader.cancel();
  assert.ok(state.closed);
});

test("a client that goes away is told once, and the source is closed", async () => {
  const state = { made: 0, closed: false };
  let gone = 0;
  const reader = sseBody(counting(state, 1000), () => gone++, { lifetimeMs: 60_000 }).getReader();
  await reader.read();
  await reader.cancel();
  assert.deepEqual([gone, state.closed], [1, true]);
});

test("comments come while the source has nothing, and no event is lost by them", async () => {
  const wait = Promise.withResolvers<void>();
  async function* slow(): AsyncGenerator<string, void, void> {
    await wait.promise;
    yield sseData("late");
  }
  const reader = sseBody(slow(), () => {}, { lifetimeMs: 60_000, keepAliveMs: 10 }).getReader();
  assert.equal(text((await reader.read()).value), ": keep-alive\n\n");
  assert.equal(text((await reader.read()).value), ": keep-alive\n\n");
  wait.resolve();
  let next = text((await reader.read()).value);
  while (next.startsWith(":")) next = text((await reader.read()).value);
  assert.equal(next, "data: late\n\n");
  assert.equal((await reader.read()).done, true);
});

test("a client that never reads is cut off and the source is closed", async () => {
  const state = { made: 0, closed: false };
  const gone = Promise.withResolvers<void>();
  const reader = sseBody(counting(state, 10), gone.resolve, { lifetimeMs: 30 }).getReader();
  await reader.read();
  await gone.promise;
  await assert.rejects(reader.read(), /did not read/);
  assert.ok(state.closed);
});

test("a comment cannot end the event that it is in", () => {
  assert.equal(sseComment("a\n\ndata: forged"), ": a  data: forged\n\n");
});
