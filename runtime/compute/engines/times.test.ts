// Tables of an expert's time by rows: measured on a planted clock, and read between and beyond what was measured.
import assert from "node:assert/strict";
import { test } from "node:test";
import { measureTimes, secondsOf } from "./times.ts";

/** An engine that takes 2 ms by itself, and an expert 1 ms and 0.1 ms a row, the first time much more. */
function planted(scale = 1) {
  let ms = 0;
  const seen = new Set<string>();
  const sizes: number[] = [];
  const run = async (experts: number, rows: number): Promise<void> => {
    const key = `${experts} ${rows}`;
    ms += scale * (2 + experts * (1 + rows / 10)) + (seen.has(key) ? 0 : 3 * scale);
    seen.add(key);
    sizes.push(rows);
  };
  return { run, now: () => ms, sizes };
}

test("a table has what an expert takes by its rows, apart from what the engine takes once", async () => {
  const { run, now } = planted(0.001);
  const times = (await measureTimes(run, { now }))!;
  assert.equal(times.seconds.length, 10);
  assert.ok(Math.abs(times.start - 2e-6) < 1e-12);
  for (const rows of [1, 3, 100, 512, 2_000]) assert.ok(Math.abs(secondsOf(times, rows) - (1 + rows / 10) * 1e-6) < 1e-12, `${rows} rows`);
});

test("a slow engine is measured for a bounded time, and one row by all means", async () => {
  const { run, now, sizes } = planted(100);
  const times = (await measureTimes(run, { now }))!;
  assert.deepEqual([...new Set(sizes)], [1]);
  assert.equal(secondsOf(times, 4), 4 * secondsOf(times, 1));
});

test("with memory for one expert and few rows the table is short, and without any there is none", async () => {
  const { run, now } = planted(0.001);
  const times = (await measureTimes(async (experts, rows) => rows <= 8 && run(experts, rows), { experts: 1, now }))!;
  assert.equal(times.seconds.length, 4);
  assert.ok(Math.abs(secondsOf(times, 8) - 3.8e-6) < 1e-12, "with what the engine takes once");
  assert.equal(await measureTimes(async () => false, { now }), undefined);
});
