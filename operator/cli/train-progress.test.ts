// The progress of training as text: on a terminal one line over itself, elsewhere a line now and then, with the time that is left.
import assert from "node:assert/strict";
import { test } from "node:test";
import { durationText, TrainProgress } from "./train-progress.ts";

function shown(isTTY: boolean, steps: number, msPerStep: number): string[] {
  const written: string[] = [];
  let now = 0;
  const progress = new TrainProgress({ isTTY, write: (text) => void written.push(text) }, steps, () => now);
  for (let step = 1; step <= steps; step++) {
    now += msPerStep;
    progress.step({ step, loss: 5 - step / 10, tokens: 1000, seconds: msPerStep / 1000, imbalance: 1.5 });
  }
  return written;
}

test("a terminal has one line that is drawn over itself, and ends it", () => {
  const written = shown(true, 4, 500);
  assert.equal(written.length, 4);
  assert.equal(
    written[1],
    "\r\u001b[Kstep 2/4 [============            ] loss 4.8000, 2000 tokens/s, busiest expert 1.50 x mean, 1 s left",
  );
  assert.deepEqual(
    written.map((text) => text.endsWith("\n")),
    [false, false, false, true],
  );
});

test("elsewhere there is a line each ten seconds, and the last", () => {
  const written = shown(false, 50, 1000);
  assert.equal(written.length, 6);
  assert.ok(written.every((text) => text.endsWith("\n") && !text.includes("\r")));
  assert.match(written.at(-1)!, /^step 50\/50 \[={24}\] .*, 0 s left/);
});

test("durations are seconds, minutes, hours", () => {
  assert.deepEqual([5.2, 119, 121, 7200].map(durationText), ["6 s", "119 s", "3 min", "2.0 h"]);
});
