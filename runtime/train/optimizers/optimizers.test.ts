// Every optimizer as WebAssembly against its plain definition, to the bit, and against its formula in f64; how a run asks for one, and
// what is refused.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { optimizerNames } from "../../../crds/names.ts";
import { gaussian } from "../../kernels/random.ts";
import { checkOptimizer, type OptimizerName, optimizerIdentity, optimizerOf, optimizerSettings } from "./index.ts";
import { createKernel, plainSquares } from "./kernel.ts";
import type { StepFacts } from "./optimizer.ts";

const bitsOf = (data: Float32Array): Uint32Array => new Uint32Array(data.slice().buffer);

for (const name of optimizerNames) {
  const asked = optimizerSettings(name, {});
  const optimizer = optimizerOf(asked);
  const numbersOf = (facts: Partial<StepFacts>) =>
    optimizer.stepNumbers(asked.values, { step: 1, rate: 1e-3, clip: 1, decays: true, ...facts });

  test(`${name}: steps have the bits of the plain definition, tiny, huge and absent gradients included`, () => {
    const kernel = createKernel(optimizer, 64, 64);
    const plain = Object.fromEntries(["p", "g", ...optimizer.state].map((array) => [array, new Float32Array(64)]));
    for (const { p } of [plain, kernel]) p!.set(gaussian(1, 64));
    const gradients = fc.array(fc.float({ noNaN: true, noDefaultInfinity: true }), { minLength: 64, maxLength: 64 });
    let step = 0;
    fc.assert(
      fc.property(gradients, fc.double({ min: 1e-6, max: 1, noNaN: true }), fc.boolean(), (values, clip, decays) => {
        step += 1;
        for (const { g } of [plain, kernel]) g!.set(values);
        const numbers = numbersOf({ step, clip, decays });
        optimizer.plain(plain, 4, 64, numbers);
        kernel.step({ from: 4, to: 64, state: 4 }, numbers);
        for (const [i, array] of optimizer.state.entries()) assert.deepEqual(bitsOf(kernel.state[i]!), bitsOf(plain[array]!), array);
        assert.deepEqual(bitsOf(kernel.p), bitsOf(plain.p!));
        assert.equal(kernel.squares(8, 60), plainSquares(plain.g!, 8, 60));
      }),
      { numRuns: 200 },
    );
  });

  test(`${name}: a range leaves what is beside it alone, wherever its state lies`, () => {
    for (const state of [0, 4, 12]) {
      const kernel = createKernel(optimizer, 16, 16);
      for (const array of [kernel.p, kernel.g, ...kernel.state]) array.fill(1);
      kernel.step({ from: 4, to: 8, state }, numbersOf({ rate: 0.5 }));
      const changed = (array: Float32Array): number[] => [...array.keys()].filter((i) => array[i] !== 1);
      assert.deepEqual(changed(kernel.p), [4, 5, 6, 7]);
      assert.deepEqual(changed(kernel.g), []);
      // With a gradient of 1 moments of 1 stay, so that only momentum, which adds, is seen to change.
      if (name === "sgd")
        assert.deepEqual(
          changed(kernel.state[0]!),
          [0, 1, 2, 3].map((i) => state + i),
        );
    }
  });
}

/** One parameter's step in f64; `n`: how many were made, this one included. */
type Formula = (state: { p: number; m: number; v: number }, g: number, n: number) => void;

const formulas: Readonly<Record<OptimizerName, Formula>> = {
  adamw(state, g, n) {
    state.m = 0.9 * state.m + 0.1 * g;
    state.v = 0.95 * state.v + 0.05 * g * g;
    state.p -= 0.01 * (state.m / (1 - 0.9 ** n) / (Math.sqrt(state.v / (1 - 0.95 ** n)) + 1e-8) + 0.1 * state.p);
  },
  sgd(state, g) {
    state.m = 0.9 * state.m + g;
    state.p -= 0.01 * (state.m + 0.1 * state.p);
  },
};

for (const name of optimizerNames)
  test(`${name}: ten steps are the formula's in f64`, () => {
    const asked = optimizerSettings(name, { "weight-decay": 0.1 });
    const { plain, stepNumbers, state } = optimizerOf(asked);
    const arrays = Object.fromEntries(["p", "g", ...state].map((array) => [array, Float32Array.of(0)]));
    arrays.p![0] = 0.5;
    const exact = { p: 0.5, m: 0, v: 0 };
    for (let step = 1; step <= 10; step++) {
      arrays.g![0] = Math.sin(step);
      plain(arrays, 0, 1, stepNumbers(asked.values, { step, rate: 0.01, clip: 1, decays: true }));
      formulas[name](exact, arrays.g![0]!, step);
    }
    assert.ok(Math.abs(arrays.p![0]! - exact.p) <= 1e-6, `${arrays.p![0]} is not ${exact.p}`);
  });

test("what is not given is the optimizer's own, and a checkpoint is told both by option", () => {
  assert.deepEqual(optimizerSettings("adamw", { beta1: 0.8 }).values, { beta1: 0.8, beta2: 0.95, epsilon: 1e-8, decay: 0.1 });
  assert.deepEqual(optimizerIdentity(optimizerSettings("sgd", { "weight-decay": 0.5 })), {
    optimizer: "sgd",
    beta1: 0.9,
    "weight-decay": 0.5,
  });
});

test("a setting of another optimizer, and a number out of bounds, are refused by option", () => {
  assert.throws(() => optimizerSettings("sgd", { beta2: 0.9 }), {
    code: "BadOption",
    message: "--beta2 is no setting of --optimizer sgd; leave it out, it has --beta1, --weight-decay",
  });
  const bad = { beta1: [1, -0.1, Number.NaN], beta2: [1], epsilon: [0, 1], "weight-decay": [1.1, -1] };
  for (const [option, numbers] of Object.entries(bad))
    for (const number of numbers)
      assert.throws(() => checkOptimizer(optimizerSettings("adamw", { [option]: number })), {
        code: "BadOption",
        message: new RegExp(`^--${option} is ${number}; it must be `),
      });
  for (const name of optimizerNames) checkOptimizer(optimizerSettings(name, {}));
});
