// The lines that an import says of its progress, by a clock of the test's own.
import assert from "node:assert/strict";
import { test } from "node:test";
import { progressText } from "../../crds/progress-text.ts";
import { Progress } from "./import-progress.ts";

test("bytes, rate and time left are said in units that people read", () => {
  assert.equal(progressText({ bytes: 0, of: 5e6, bytesPerSecond: 0 }), "0%, 0.0 MB of 5.0 MB, 0.0 MB/s");
  assert.equal(progressText({ bytes: 1.5e9, of: 6e9, bytesPerSecond: 500e6 }), "25%, 1.50 GB of 6.00 GB, 500.0 MB/s, 9 s left");
  assert.equal(progressText({ bytes: 1e9, of: 61e9, bytesPerSecond: 200e6 }), "1%, 1.00 GB of 61.00 GB, 200.0 MB/s, 5 min left");
});

test("a line comes every five seconds, and one at the end", () => {
  const lines: string[] = [];
  let now = 0;
  const progress = new Progress(
    (line) => lines.push(line),
    100e6,
    () => now,
  );
  for (let i = 0; i < 10; i++) {
    now += 1_250;
    progress.add(10e6, `layer ${i}`);
  }
  assert.deepEqual(lines, [
    "layer 3: 40%, 40.0 MB of 100.0 MB, 8.0 MB/s, 8 s left",
    "layer 7: 80%, 80.0 MB of 100.0 MB, 8.0 MB/s, 3 s left",
    "layer 9: 100%, 100.0 MB of 100.0 MB, 8.0 MB/s, 0 s left",
  ]);
});
