// The claims of the training demo, each with a run that does not hold it: a step twice, one missing, a loss that jumps back, and a text of
// random letters.
import assert from "node:assert/strict";
import { test } from "node:test";
import { uniform } from "../../../runtime/kernels/random.ts";
import { breakOf, examine, knownWords, wordsOf } from "./checks.ts";

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
