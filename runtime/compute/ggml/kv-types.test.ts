// What blocks of keys and values are called: ranks that store them in unlike ways must not take each other's.
import assert from "node:assert/strict";
import { test } from "node:test";
import { storedName } from "./kv-types.ts";

test("values in another form than the processor's have another name", () => {
  assert.equal(storedName("f32", { keys: "f32", values: "f32" }), "f32");
  assert.equal(storedName("f16", { keys: "f16", values: "bf16" }), "f16");
  assert.equal(storedName("f16", { keys: "f16", values: "f16" }), "f16 with f16 values");
});
