import assert from "node:assert/strict";
import { test } from "node:test";
import { fmaGigaflops, fmaLoop } from "./fma.ts";

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");

test("the loops are what an assembler makes of them", () => {
  assert.match(hex(fmaLoop(16)), /^c4e17857c0.*c4411057ed62d21548b8c4.*62521548b8dc48ffcf75b3c5f877c3$/);
  assert.match(hex(fmaLoop(8)), /^c4e17857c0.*c4411057edc4c215b8c4.*c44215b8dc48ffcf75bfc5f877c3$/);
});

test("a thread multiplies and adds at a rate that a processor can have", { skip: process.arch !== "x64" }, () => {
  const rate = fmaGigaflops();
  assert.ok(rate !== undefined && rate > 0.1 && rate < 2_000, `${rate}`);
});
