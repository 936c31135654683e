import assert from "node:assert/strict";
import { test } from "node:test";
import { type Program, solve } from "./solver.ts";

const limits = { nodes: 100, gap: 1e-6 };
const good: Program = { minimise: [["x", 1]], rows: [{ terms: [["x", 2]], sense: ">=", rhs: 3 }], binaries: [] };

test("after a program that the solver cannot read, the next one is solved", async () => {
  const bad: Program = { ...good, rows: [{ terms: [["2 2", Number.NaN]], sense: ">=", rhs: Number.NaN }] };
  await assert.rejects(solve(bad, limits), { code: "SolverFailed" });
  assert.equal((await solve(good, limits))?.value("x"), 1.5);
});
