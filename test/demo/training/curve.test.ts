// The curve in dots: it falls where the loss falls, is joined, and stays within its block.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { columnOf, drawCurve } from "./curve.ts";

test("a falling loss goes from the upper left dot to the lower right one, without a gap", () => {
  const points = Array.from({ length: 8 }, (_, i) => ({ step: i + 1, loss: 8 - i }));
  const drawn = drawCurve(points, { width: 4, height: 2, steps: 8 });
  assert.deepEqual([drawn?.high, drawn?.low], [8, 1]);
  assert.deepEqual(drawn?.rows, ["⠙⢦⡀⠀", "⠀⠀⠙⢦"]);
});

test("what is not made yet is empty, and a loss that is level is one line", () => {
  const drawn = drawCurve(
    [1, 2, 3, 4].map((step) => ({ step, loss: 2 })),
    { width: 4, height: 1, steps: 8 },
  );
  assert.deepEqual(drawn?.rows, ["⣀⣀⠀⠀"]);
  assert.equal(drawCurve([], { width: 4, height: 1, steps: 8 }), undefined);
});

test("any points are drawn within the block, and a step has its column", () => {
  const point = fc.record({ step: fc.integer({ min: 1, max: 400 }), loss: fc.double({ min: 0, max: 50 }) });
  const size = fc.record({ width: fc.integer({ min: 1, max: 40 }), height: fc.integer({ min: 1, max: 9 }), steps: fc.constant(400) });
  fc.assert(
    fc.property(fc.array(point, { maxLength: 60 }), size, (points, plot) => {
      const rows = drawCurve(points, plot)?.rows ?? [];
      assert.ok(rows.length === 0 || rows.length === plot.height);
      for (const row of rows) assert.match(row, new RegExp(`^[\\u2800-\\u28ff]{${plot.width}}$`));
      for (const { step } of points) assert.ok(columnOf(step, plot) < plot.width);
    }),
  );
  const plot = { width: 10, height: 1, steps: 100 };
  assert.deepEqual(
    [1, 10, 11, 100].map((step) => columnOf(step, plot)),
    [0, 0, 1, 9],
  );
});
