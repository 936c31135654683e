// The picture of a loss: it falls where the loss falls, stays within its frame whatever the points, and is text that XML takes.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { lossPlot } from "./loss-plot.ts";

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
