// Worlds in the log of a training pod.
import assert from "node:assert/strict";
import { test } from "node:test";
import { beginsIn } from "./watch.ts";

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
