// The trial of a device: a right one passes, a wrong one is named with its op before any request.
import assert from "node:assert/strict";
import { test } from "node:test";
import { allCases } from "../kernels/index.ts";
import type { Backend, Outputs } from "./backend.ts";
import { tryForms } from "./form-self-test.ts";
import { createBackend } from "./index.ts";
import { checkResults, runCase, settled, tryOps } from "./op-self-test.ts";

test("a backend that computes one op wrongly is refused by the op's name and the device's", async () => {
  const oracle = await createBackend("reference", { threads: 1 });
  const check = async (backend: Backend) => checkResults(backend, await tryOps(backend, oracle));
  await check(await createBackend("reference", { threads: 1 }));
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
  await assert.rejects(check(wrong), {
    code: "BackendWrong",
    message: /reference.* computes rmsNorm .*\d more cases.*selftest/,
  });
});

test("the processor reads forms of weights rightly, as experts and in the dense part, rearranged and plain", async () => {
  const forms = ["f32", "q4_0", "mxfp4", "q4_K", "iq2_s"] as const;
  const [backend, oracle] = [await createBackend("cpu", { threads: 1, denseBits: 8 }), await createBackend("reference", { threads: 1 })];
  const results = await tryForms(backend, oracle, { experts: forms, dense: forms });
  checkResults(backend, results);
  assert.equal(results.length, 4 * forms.length);
  await backend.close();
});

test("a backend that reads one packed form wrongly, rearranged alone, is refused by the form's name", async () => {
  const [wrong, oracle] = [await createBackend("reference", { threads: 1 }), await createBackend("reference", { threads: 1 })];
  const { compile } = wrong;
  wrong.compile = async (segment, weights) => {
    const { w } = weights;
    if (w?.form !== "q4_0" || segment.ops.length > 1) return compile.call(wrong, segment, weights);
    const data = w.data.slice();
    for (let at = 0; at + 36 <= data.length; at += 36) data.set(w.data.subarray(at + 18, at + 36), at); // a block in another's place
    return compile.call(wrong, segment, { ...weights, w: { ...w, data } });
  };
  const results = await tryForms(wrong, oracle, { experts: ["q8_0", "q4_0"], dense: ["q4_0"] });
  const message = /reference.* computes matMul \(q4_0, experts, 1 row\) .*, and 1 more cases/;
  assert.throws(() => checkResults(wrong, results), { code: "BackendWrong", message });
});

test("what hangs on the order of equals is any choice where bits are free, and the oracle's on an exact backend", async () => {
  const oracle = await createBackend("reference", { threads: 1 });
  for (const { case: kernelCase } of allCases()) {
    if (kernelCase.byOrder === undefined) continue;
    const want = await runCase(oracle, kernelCase);
    const k = want.ids!.shape[1]!;
    const experts = kernelCase.segment.inputs[0]!.width;
    const [first, second, ...others] = want.ids!.data;
    const answered = (...ids: number[]) => ({ ...want, ids: { shape: want.ids!.shape, data: Int32Array.from([...ids, ...others]) } });
    const due = (numericClass: "exact" | "tolerance", got: Outputs) => settled({ numericClass }, kernelCase, got, want);
    const swapped = answered(second!, first!);
    assert.deepEqual(due("tolerance", swapped), swapped);
    assert.deepEqual(due("exact", swapped), want);
    for (const wrong of [answered(first!, first!), answered(experts, second!), answered(-1, second!), answered(first!)])
      assert.deepEqual(due("tolerance", wrong), want, `${k} of ${experts}`);
    const none = { ...want.gates!, data: new Float32Array(want.gates!.data.length) };
    assert.deepEqual(due("tolerance", { ...swapped, gates: none }).gates, want.gates, "gates hang on no order");
  }
  assert.equal(allCases().filter(({ case: { byOrder } }) => byOrder !== undefined).length, 2);
});

test("attention is tried on keys and values of the backend's usual type, too", async () => {
  const [backend, oracle] = [await createBackend("reference", { threads: 1 }), await createBackend("reference", { threads: 1 })];
  let half = false;
  const { createKv, compile } = backend;
  const usual = Object.assign(backend, { kvTypes: ["f16", "f32"] });
  usual.createKv = async ({ type, ...spec }) => {
    half = type === "f16";
    return createKv.call(backend, spec);
  };
  const tried = async (off: number) => {
    usual.compile = async (segment, weights) => {
      const program = await compile.call(backend, segment, weights);
      const { run } = program;
      program.run = async (inputs, kv) => {
        const outputs = await run.call(program, inputs, kv);
        for (const { data } of Object.values(outputs)) data[0] = (data[0] as number) + (kv !== undefined && half ? off : 0);
        return outputs;
      };
      return program;
    };
    return tryOps(usual, oracle, "attention: one token, empty past");
  };
  const right = await tried(0);
  assert.deepEqual(
    right.map(({ case: name }) => name),
    ["one token, empty past", "one token, empty past, keys and values of f16"],
  );
  checkResults(usual, right);
  const wrong = await tried(1);
  assert.throws(() => checkResults(usual, wrong), { code: "BackendWrong", message: /attention \(one token, empty past, keys .* of f16\)/ });
});
