import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";
import { verdict } from "./index.ts";
import { plannerBench } from "./planner.ts";
import { traceOf } from "./planner-kit.ts";

test("a row that there is not is refused before any row is run, with those that there are", async () => {
  await assert.rejects(plannerBench(["9a", "nonsense"]), { code: "InvalidOption", message: /no row nonsense; there are 1, .*10s, 11,/ });
});

for (const [args, message] of [
  [["9a", "--seeds", "3-1"], /--seeds: "3-1" is no seed/],
  [["9a", "--seed", "0"], /--seed: "0" is no seed/],
  [["9a", "--seed", "x"], /--seed: "x" is no seed/],
  [["9a", "--seed"], /--seed: "" is no seed/],
  [["9a", "--sead", "1"], /no option --sead/],
] as const) {
  test(`${args.join(" ")} is refused`, async () => {
    await assert.rejects(plannerBench([...args]), { code: "InvalidOption", message });
  });
}

test("another seed is another trace, the same seed the same", () => {
  const [one, same, two] = [traceOf("mixtral_32x8", 1), traceOf("mixtral_32x8", 1), traceOf("mixtral_32x8", 2)];
  assert.deepEqual(one.counts, same.counts);
  assert.notDeepEqual(one.counts, two.counts);
});

test("a miss is an exit code under --strict, and a figure otherwise; rows that are not judged are neither", () => {
  const rows = [{ ok: true }, { ok: "-" }, { exponent: 1 }];
  assert.deepEqual(verdict(rows, true), { said: "1 of 1 rows hold\n", code: 0 });
  assert.deepEqual(verdict([...rows, { ok: false }], true), { said: "1 of 2 rows hold\n", code: 1 });
  assert.deepEqual(verdict([...rows, { ok: false }], false), { said: "1 of 2 rows hold\n", code: 0 });
  assert.deepEqual(verdict([{ exponent: 1 }], true), { said: "", code: 0 });
});

test("--seeds runs a row on each", () => {
  const bench = (...args: string[]) =>
    spawnSync(process.execPath, [join(import.meta.dirname, "main.ts"), "planner", "9b", "--json", ...args], { encoding: "utf8" });
  const both = bench("--seeds", "1-2", "--strict");
  const rows = JSON.parse(both.stdout) as { row: string; seed: number; ok: boolean }[];
  assert.deepEqual(
    rows.map(({ row, seed, ok }) => ({ row, seed, ok })),
    [1, 2].map((seed) => ({ row: "9b", seed, ok: true })),
  );
  assert.equal(both.status, 0, both.stderr);
});
