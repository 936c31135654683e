import assert from "node:assert/strict";
import { test } from "node:test";
import { fasterRows, instructionsOf } from "./types.ts";

test("in packed memory the last rows of a block are filled up where that takes less time; elsewhere nothing is added", () => {
  const rows = [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 19, 30, 31, 32];
  const want = [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 16, 16, 16, 17, 19, 32, 32, 32];
  assert.deepEqual(
    rows.map((each) => fasterRows(each, "CPU_REPACK")),
    want,
  );
  assert.deepEqual(
    rows.map((each) => fasterRows(each, "plain")),
    rows,
  );
});

test("processors with AVX-512 compute alike, but for bf16; those with AVX2 alone do not", () => {
  assert.equal(instructionsOf("icelake", "iq4_nl"), instructionsOf("zen4", "iq4_nl"));
  assert.notEqual(instructionsOf("icelake", "bf16"), instructionsOf("zen4", "bf16"));
  assert.notEqual(instructionsOf("haswell", "q8_0"), instructionsOf("zen4", "q8_0"));
});

test("tiles of quantized weights are a class of their own", () => {
  assert.notEqual(instructionsOf("sapphirerapids", "q4_0", true), instructionsOf("sapphirerapids", "q4_0", false));
  for (const form of ["f32", "f16", "iq4_nl", "mxfp4"] as const)
    assert.equal(instructionsOf("sapphirerapids", form, true), instructionsOf("zen4", form), form);
});

test("a build that nobody compared is alone", () => {
  assert.equal(instructionsOf("armv8.6_1", "f32"), "armv8.6_1");
});
