// Chunks shrink with what they take, and grow again.
import assert from "node:assert/strict";
import { test } from "node:test";
import { ChunkPace, chunkTokensMin } from "./chunk-pace.ts";

test("chunks shrink until they take no longer than the wait, not below the least, and grow again", () => {
  const pace = new ChunkPace(20);
  assert.equal(pace.tokens(128), 128);
  const run = (took: (tokens: number) => number): number => {
    for (let i = 0; i < 40; i++) pace.note(pace.tokens(128), took(pace.tokens(128)));
    return pace.tokens(128);
  };
  const chunk = run((tokens) => 4 + 0.5 * tokens);
  assert.ok(chunk >= 28 && chunk <= 32, `${chunk}`);
  assert.equal(
    run((tokens) => 3 * tokens),
    chunkTokensMin,
  );
  assert.equal(
    run((tokens) => 0.01 * tokens),
    128,
  );
  assert.equal(pace.tokens(8), 8);
});
