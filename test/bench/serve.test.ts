import assert from "node:assert/strict";
import { test } from "node:test";
import { aims, row } from "./serve.ts";

test("a row has the best and the median run, the part of the aim, and the part of what memory allows", () => {
  const measured = { rates: [80, 100, 90], bytesPerToken: 2e8, bandwidth: 50 };
  assert.deepEqual(row("decode, batch 1", { ...measured, aim: aims.decode }), {
    ...{ case: "decode, batch 1", tokensPerSecond: 100, median: 90, aim: 118, ofAim: "84.7%" },
    ...{ limit: 250, ofLimit: "40%", bandwidth: "50 GB/s" },
  });
  const { aim, ofAim } = row("decode, batch 8", { ...measured, aim: undefined });
  assert.deepEqual([aim, ofAim], ["-", "-"]);
  assert.equal(aims.prefill, 685);
});
