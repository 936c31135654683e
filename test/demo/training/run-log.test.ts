// A run as it is seen: its steps, its longest pause and its worlds, from a file that is cut and goes on.
import assert from "node:assert/strict";
import { test } from "node:test";
import { parseMetrics, RunLog } from "./run-log.ts";
import { beginsIn } from "./watch.ts";

const line = (step: number): string => JSON.stringify({ step, loss: 5 - step / 10, tokens: 100, seconds: 0.5, imbalance: 1 });
const text = (from: number, to: number): string => `${Array.from({ length: to - from + 1 }, (_, i) => line(from + i)).join("\n")}\n`;

test("lines of steps are read, others and half a line are not", () => {
  const read = parseMetrics(`${line(1)}\n{"step":1,"validationLoss":3}\n${line(2)}\n${line(3).slice(0, 20)}`);
  assert.deepEqual(
    read.map(({ step }) => step),
    [1, 2],
  );
});

test("the longest pause is between two looks that found new steps, and lines that are made again are none", () => {
  let now = 0;
  const log = new RunLog(() => now);
  const look = (at: number, last: number): void => {
    now = at;
    log.read(text(1, last));
  };
  look(4_000, 1);
  look(5_000, 3);
  look(6_000, 3);
  look(12_000, 2);
  look(13_000, 3);
  look(14_500, 4);
  look(15_000, 6);
  assert.deepEqual([log.step, log.firstStepSeconds, log.pause], [6, 4, { seconds: 9.5, step: 3 }]);
});

test("a world is told once, with the nodes of its ranks", () => {
  const log = new RunLog(() => 2_000);
  const ranks = [0, 1].map((rank) => ({ rank, pod: `p${rank}`, uid: `u${rank}`, ip: "10.0.0.1", node: `n${rank}` }));
  const world = { epoch: 3, since: "2026-01-01T00:00:00Z", ranks };
  for (let i = 0; i < 2; i++) log.take({ step: 4, world });
  assert.deepEqual(log.happenings, [{ seconds: 0, step: 0, what: "world 3: 2 ranks, 0 on n0, 1 on n1" }]);
});

test("a world has the step that it went on from, and what the pod had made past it", () => {
  const log = [
    "no JSON",
    { message: "a world begins", world: 1, rank: 0, ranks: 3 },
    { message: "training", step: 0, repeats: 0 },
    { message: "the world is over", world: 1 },
    { message: "a world begins", world: 2, rank: 0, ranks: 3 },
    { message: "a world begins", world: 3, rank: 0, ranks: 2 },
    { message: "training", step: 17, repeats: 1 },
  ].map((line) => (typeof line === "string" ? line : JSON.stringify(line)));
  assert.deepEqual(beginsIn(log.join("\n")), [
    { world: 1, ranks: 3, step: 0, repeats: 0 },
    { world: 3, ranks: 2, step: 17, repeats: 1 },
  ]);
});
