// The picture of a run: everything is in it where there is room, and it never is larger than the terminal.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { LiveArea } from "./live.ts";
import { RunLog } from "./run-log.ts";
import { plainLine, screenLines } from "./screen.ts";

function runOf(steps: number, happenings = 3): RunLog {
  const log = new RunLog(() => 0);
  log.read(
    Array.from({ length: steps }, (_, i) => JSON.stringify({ step: i + 1, loss: 5 - i / steps, tokens: 64, seconds: 1 })).join("\n"),
  );
  const ranks = [0, 1, 2].map((rank) => ({ rank, pod: `p${rank}`, uid: `u${rank}`, ip: "10.0.0.1", node: `n${rank}` }));
  const copies = [{ layer: 1, experts: 8, copied: 1, most: [{ expert: 5, ranks: [2, 0] }] }];
  log.take({ readyReplicas: 3, world: { epoch: 1, since: "2026-01-01T00:00:00Z", ranks }, copies });
  for (let i = 1; i < happenings; i++) log.happened(`thing ${i}`);
  return log;
}
const frame = { steps: 100, layers: 3, columns: 100, rows: 40 };

test("loss, progress, ranks, copies and what happened are in the picture", () => {
  const text = screenLines(runOf(50), frame)
    .map((line) => line.text)
    .join("\n");
  for (const part of [
    /5\.000 │[⠀-⣿]+/,
    /└─+3─+/,
    /step 50\/100 █{12}░{12} {2}loss 4\.020 {2}64 tokens\/s {2}3 pods {2}50 s of steps left/,
    /ranks +0 on n0, 1 on n1, 2 on n2/,
    /layer 0 {2}every expert at its primary\n {2}layer 1 {2}1 of 8 experts on more ranks {3}e5 ■2 □0\n/,
    /2 +0 s {2}step 50 +thing 1/,
  ])
    assert.match(text, part);
});

test("no picture is larger than the terminal, whatever there is to tell", () => {
  const sizes = fc.record({ columns: fc.integer({ min: 40, max: 200 }), rows: fc.integer({ min: 18, max: 60 }) });
  fc.assert(
    fc.property(sizes, fc.nat(30), fc.nat(100), ({ columns, rows }, happenings, steps) => {
      const lines = screenLines(runOf(steps, happenings), { ...frame, columns, rows });
      assert.ok(lines.length < rows, `${lines.length} lines in ${rows}`);
      for (const { text } of lines) assert.ok(text.length < columns);
    }),
    { numRuns: 60 },
  );
});

test("a picture takes the place of the one before, what is kept stays, and without a terminal nothing is drawn", () => {
  let written = "";
  const write = (text: string): void => {
    written += text;
  };
  const output = { isTTY: true, columns: 80, rows: 4, write };
  const area = new LiveArea(output, ({ text }) => text);
  area.draw([{ text: "a" }, { text: "b" }, { text: "c" }, { text: "d" }]);
  area.draw([{ text: "e" }]);
  area.keep();
  area.draw([{ text: "f" }]);
  area.clear();
  assert.equal(written, "a\nb\nc\n\u001b[3A\r\u001b[Je\nf\n\u001b[1A\r\u001b[J");
  written = "";
  new LiveArea({ ...output, isTTY: false }, ({ text }) => text).draw([{ text: "a" }]);
  assert.equal(written, "");
});

test("without a terminal a line says the same", () => {
  assert.equal(plainLine(runOf(50), 100), "   0 s  step 50/100  loss 4.020  64 tokens/s  3 ranks  experts with copies: 1 in layer 1");
});
