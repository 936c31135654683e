import assert from "node:assert/strict";
import { test } from "node:test";
import { SharedTime } from "./shared-time.ts";

/** Work that ends when it is told to. */
function open<T>(): { work: Promise<T>; end: (value: T) => void; fail: () => void } {
  const { promise, resolve, reject } = Promise.withResolvers<T>();
  return { work: promise, end: resolve, fail: () => reject(new Error("no")) };
}

test("time is shared among what runs side by side, so that all together took the time that passed", async () => {
  let now = 0;
  const time = new SharedTime(() => now);
  const [a, b] = [open<string>(), open<string>()];
  const first = time.run(() => a.work);
  now = 10;
  const second = time.run(() => b.work);
  now = 30;
  a.end("a");
  assert.deepEqual(await first, { result: "a", ms: 20 });
  now = 35;
  b.end("b");
  assert.deepEqual(await second, { result: "b", ms: 15 });
  now = 100;
  assert.deepEqual(await time.run(async () => "c"), { result: "c", ms: 0 }, "idle time is nobody's");
});

test("what fails takes its part with it and is out of the way of the others", async () => {
  let now = 0;
  const time = new SharedTime(() => now);
  const [a, b] = [open<string>(), open<string>()];
  const [first, second] = [time.run(() => a.work), time.run(() => b.work)];
  now = 10;
  a.fail();
  await assert.rejects(first);
  now = 20;
  b.end("b");
  assert.deepEqual(await second, { result: "b", ms: 15 });
});
