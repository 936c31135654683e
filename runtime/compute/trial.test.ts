// The trial of a device: a right one passes, a wrong one is named with its op before any request.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createBackend } from "./index.ts";
import { checkBackend } from "./trial.ts";

test("a backend that computes one op wrongly is refused by the op's name and the device's", async () => {
  const oracle = await createBackend("reference", { threads: 1 });
  await checkBackend(await createBackend("reference", { threads: 1 }), oracle);
  const wrong = await createBackend("reference", { threads: 1 });
  const { compile } = wrong;
  wrong.compile = async (segment, weights) => {
    const program = await compile.call(wrong, segment, weights);
    if (!segment.ops.some(({ op }) => op === "rmsNorm")) return program;
    const { run } = program;
    program.run = async (inputs, kv) => {
      const outputs = await run.call(program, inputs, kv);
      for (const { data } of Object.values(outputs)) data[0] = (data[0] as number) + 1;
      return outputs;
    };
    return program;
  };
  await assert.rejects(checkBackend(wrong, oracle), {
    code: "BackendWrong",
    message: /reference.* computes rmsNorm .*\d more cases.*selftest/,
  });
});
