// The picture of a simulation, read by its cells.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { SplitName, WindowResult } from "../../planner/offline/simulate.ts";
import { plot } from "./plan-plot.ts";

const red = 'fill="rgb(255,0,0)"';
const count = (picture: string, part: string): number => picture.split(part).length - 1;

/** A picture of so many ranks and windows, all at the mean but rank 3 in window 5, which is overloaded by one split. */
function picture(split: SplitName, ranks: number, windows: number, overloaded: SplitName = split): string {
  const even = () => new Float64Array(ranks).fill(1);
  const results = Array.from({ length: windows }, (_, window): WindowResult => {
    const rankLoad = { equal: even(), fixed: even(), optimal: even() };
    if (window === 5) rankLoad[overloaded][3] = 2;
    const one = { balance: 1, worst: 1 };
    return { window, expertReplicas: 0, bytes: 0, ms: 0, reason: "", next: { equal: one, fixed: one, optimal: one }, bound: 1, rankLoad };
  });
  const trace = { name: "t", windows, layers: 1, experts: 1, counts: new Uint32Array(windows) };
  return plot({ trace, split, ranks, runs: [{ name: "p", results }] });
}

for (const split of ["equal", "fixed", "optimal"] as const) {
  test(`the heat map is that of the split ${split}`, () => {
    assert.equal(count(picture(split, 8, 10), red), 1);
    assert.equal(count(picture(split, 8, 10, split === "equal" ? "fixed" : "equal"), red), 0);
    assert.match(picture(split, 8, 10), { equal: /split equally/, fixed: /the plan's weights/, optimal: /split at best/ }[split]);
  });
}

test("ranks and windows beyond what a picture can show share cells by the highest value, and it says so", () => {
  const small = picture("fixed", 130, 150);
  assert.ok(!small.includes("the highest of"));
  const large = picture("fixed", 1024, 4000);
  assert.equal(count(large, red), 1, "one hot rank in one window is still seen");
  assert.match(large, /a cell is the highest of 8 ranks x 27 windows/);
  assert.ok(count(large, "<rect") < 20_100);
  assert.ok(large.length < 4_000_000);
});
