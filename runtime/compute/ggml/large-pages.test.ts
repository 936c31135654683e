// Weights move into large pages when they have been left alone, one after another, and never where a part is empty.

import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { LargePages, largePageBytes, settledMs } from "./large-pages.ts";

const large = BigInt(largePageBytes);

function started(t: TestContext, joins: (page: bigint) => boolean = () => true, pages = true) {
  t.mock.timers.enable({ apis: ["setTimeout", "Date"] });
  const asked: bigint[] = [];
  const joinPages = (at: bigint): boolean => asked.push(at / large) > 0 && joins(at / large);
  const ggml = { joinPages, largePages: () => {}, singlePages: () => {}, splitPages: () => {} };
  return {
    asked,
    pages: new LargePages({ pageBytes: pages ? 4096 : undefined, ggml }, () => Date.now()),
    tick: (ms: number) => t.mock.timers.tick(ms),
  };
}

test("what was written twice waits anew, and pages are joined one at a time", (t) => {
  const { asked, pages, tick } = started(t);
  pages.settle(large + 5n, 2 * largePageBytes, () => true); // pages 1 to 3
  tick(settledMs / 2);
  pages.settle(large, 1, () => true);
  tick(settledMs / 2);
  assert.deepEqual(asked, [2n]);
  tick(1);
  assert.deepEqual(asked, [2n, 3n]);
  tick(settledMs / 2);
  assert.deepEqual(asked, [2n, 3n, 1n]);
  tick(10 * settledMs);
  assert.equal(asked.length, 3);
});

test("a page that is not full then is left out, and one that the kernel refuses is not tried again and delays the next", (t) => {
  const { asked, pages, tick } = started(t, (page) => page !== 1n);
  pages.settle(large, 3 * largePageBytes, (page) => page !== 2n * large);
  tick(settledMs + 100);
  assert.deepEqual(asked, [1n]);
  tick(settledMs);
  assert.deepEqual(asked, [1n, 3n]);
});

test("nothing is joined after the close, or on a device without pages", (t) => {
  const { asked, pages, tick } = started(t);
  pages.settle(large, 1, () => true);
  pages.close();
  tick(2 * settledMs);
  assert.deepEqual(asked, []);
  t.mock.timers.reset();
  const other = started(t, undefined, false);
  other.pages.settle(large, 1, () => true);
  other.tick(2 * settledMs);
  assert.deepEqual(other.asked, []);
});
