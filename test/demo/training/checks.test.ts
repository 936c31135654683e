// The claims of the training demo, each with a run that does not hold it: a step twice, one missing, a loss that jumps back, and a text of
// random letters.
import assert from "node:assert/strict";
import { test } from "node:test";
import { uniform } from "../../../runtime/kernels/random.ts";
import { breakOf, examine, knownWords, wordsOf } from "./checks.ts";
import { parseMetrics, RunLog } from "./run-log.ts";
import { beginsIn } from "./watch.ts";

const steps = 400;
const changes = [120, 200, 280];

/** A loss that falls, with noise. */
function curve(): { step: number; loss: number }[] {
  const draw = uniform(1);
  return Array.from({ length: steps }, (_, i) => ({ step: i + 1, loss: 2 + 3.5 * Math.exp(-(i + 1) / 60) + 0.1 * (draw() - 0.5) }));
}
const broken = (points: readonly { step: number; loss: number }[], lost = 1): string | undefined =>
  breakOf(examine(points, steps, changes), lost);

test("a curve with every step once, in which no change of ranks shows, is unbroken", () => {
  assert.equal(broken(curve()), undefined);
  assert.deepEqual(examine(curve(), steps, changes).missing, []);
});

test("a line that went with the lost rank is no break, and two are", () => {
  const less = (...gone: number[]) => curve().filter(({ step }) => !gone.includes(step));
  assert.equal(broken(less(121)), undefined);
  assert.match(broken(less(121, 122)) ?? "", /steps 121, 122 are missing/);
  assert.match(broken(less(121), 0) ?? "", /steps 121 are missing/);
});

test("steps that are there twice, or out of order, break it", () => {
  const points = curve();
  assert.match(broken([...points.slice(0, 121), ...points.slice(118)]) ?? "", /steps 119, 120, 121 are there twice/);
});

test("a loss that falls back at a change of ranks to what it was 40 steps before breaks it", () => {
  const points = curve();
  const back = points.map(({ step, loss }) => ({ step, loss: step > 120 ? (points[step - 41]?.loss ?? loss) : loss }));
  assert.match(broken(back) ?? "", /the loss rises by 0\.\d+ where ranks changed/);
});

test("words of the guides are known, and those of random letters are not", () => {
  const vocabulary = new Set(wordsOf("A rank holds experts; the others send rows to it."));
  assert.deepEqual(knownWords("the rank sends rows, xqz", vocabulary), { known: 3, words: 5 });
  const draw = uniform(2);
  const letters = Array.from({ length: 600 }, () => "abcdefghijklmnopqrstuvwxyz  "[Math.floor(draw() * 28)]).join("");
  const { known, words } = knownWords(letters, vocabulary);
  assert.ok(words > 20 && known / words < 0.05, `${known} of ${words}`);
});

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
