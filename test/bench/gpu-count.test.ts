import assert from "node:assert/strict";
import { test } from "node:test";
import { countRows, kernelsWhenFused, lastLayerOf } from "./gpu-count.ts";

test("a layer has at most 1.1 of llama.cpp's kernels, DeepSeek's one more for the bound of its keys, and a token is one read", async () => {
  const rows = await countRows();
  assert.equal(rows.length, 5);
  for (const { hostDown, ranksDown, hostUp, ranksUp } of rows) assert.ok(ranksDown <= 0.6 * hostDown && ranksUp < hostUp);
  for (const row of rows) assert.ok(row.share <= (row.model.startsWith("DeepSeek") ? 1.13 : 1.1) && row.reads === 1, JSON.stringify(row));
});

test("views stand between what is one kernel, or keep it apart, and llama.cpp does not print them", () => {
  assert.equal(kernelsWhenFused("RMS_NORM MUL ROPE VIEW SET_ROWS VIEW ADD ADD".split(" ")), 2);
  assert.equal(kernelsWhenFused("RMS_NORM MUL VIEW ROPE MUL_MAT_ID VIEW MUL_MAT_ID SWIGLU".split(" ")), 5);
  const ops = ["GET_ROWS): embd", "ADD): l_out-0", "MUL): norm-1", "VIEW", "GET_ROWS): node_4", "GET_ROWS): node_5", "ADD): l_out-1"];
  const printed = ops.flatMap((op, i) => (op === "VIEW" ? [] : [`node #${String(i).padStart(3)} (  ${op} (   1K) [ CPU ]`])).join("\n");
  assert.deepEqual(lastLayerOf(printed), ["MUL", "VIEW", "ADD"]);
});
