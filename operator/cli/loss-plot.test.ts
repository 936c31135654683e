// The picture of a loss: it falls where the loss falls, stays within its frame whatever the points, and is text that XML takes.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { lossPlot } from "./loss-plot.ts";
import { durationText, TrainProgress } from "./train-progress.ts";

const pointsOf = (svg: string): (readonly [x: number, y: number])[] =>
  (/<polyline [^>]* points="([^"]*)"/.exec(svg)?.[1] ?? "").split(" ").map((pair) => {
    const [x, y] = pair.split(",").map(Number);
    return [x ?? Number.NaN, y ?? Number.NaN];
  });

test("a falling loss goes down and to the right, from the first step to the last", () => {
  const svg = lossPlot(
    "news",
    [1, 2, 4].map((i) => ({ step: 10 * i, loss: 5 - i })),
  );
  assert.deepEqual(
    pointsOf(svg ?? ""),
    [
      [72, 48],
      [280, 138.7],
      [696, 320],
    ].map(([x, y]) => [x, y]),
  );
  assert.match(svg ?? "", /^<svg [^>]*data-made-by="enodia train loss">[\s\S]*news: loss by step, 4\.0000 to 1\.0000[\s\S]*<\/svg>\n$/);
  for (const label of ["step 10", "step 40", "4.0000", "3.2500", "1.0000"]) assert.ok(svg?.includes(`>${label}</text>`), label);
});

test("every point is drawn, and what happened on the way is marked where it happened", () => {
  const points = Array.from({ length: 301 }, (_, step) => ({ step, loss: 5 - step / 100 }));
  const marks = [
    { step: 150, what: "a rank <killed>" },
    { step: 900, what: "beyond" },
  ];
  const svg = lossPlot("run", points, marks) ?? "";
  assert.equal(pointsOf(svg).length, 301);
  assert.match(svg, /<line x1="384" x2="384" [^>]*stroke-dasharray[\s\S]*a rank &lt;killed&gt;/);
  assert.doesNotMatch(svg, /beyond/);
  assert.doesNotMatch(lossPlot("run", points) ?? "", /stroke-dasharray/);
});

test("a curve without two points has no picture, and one that is level has", () => {
  assert.equal(lossPlot("j", [{ step: 1, loss: 2 }]), undefined);
  const level = pointsOf(
    lossPlot(
      "j",
      [1, 2].map((step) => ({ step, loss: 3 })),
    ) ?? "",
  );
  assert.equal(level[0]?.[1], level[1]?.[1]);
});

test("any points are drawn within the frame, and a name cannot end the text", () => {
  const point = fc.record({ step: fc.nat(99_999_999), loss: fc.double() });
  fc.assert(
    fc.property(fc.array(point, { maxLength: 80 }), (points) => {
      const svg = lossPlot("a</text><script>", points);
      if (svg === undefined) return;
      assert.ok(!svg.includes("<script>"));
      for (const [x, y] of pointsOf(svg)) assert.ok(x >= 72 && x <= 696 && y >= 48 && y <= 320, `${x},${y}`);
      assert.doesNotMatch(svg, /NaN|Infinity/);
    }),
  );
});

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
