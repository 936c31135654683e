// AdamW as WebAssembly against its plain definition, to the bit, and against the formula in f64.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { gaussian } from "../kernels/random.ts";
import { type Arrays, createAdamW, plainSquares, plainStep, stepNumbers } from "./adamw.ts";

const settings = { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, decay: 0.1 };
const bitsOf = (data: Float32Array): Uint32Array => new Uint32Array(data.slice().buffer);

test("steps have the bits of the plain definition, tiny, huge and absent gradients included", () => {
  const optimizer = createAdamW(64);
  const plain: Arrays = { p: gaussian(1, 64), m: new Float32Array(64), v: new Float32Array(64), g: new Float32Array(64) };
  optimizer.p.set(plain.p);
  const gradients = fc.array(fc.float({ noNaN: true, noDefaultInfinity: true }), { minLength: 64, maxLength: 64 });
  let step = 0;
  fc.assert(
    fc.property(gradients, fc.double({ min: 1e-6, max: 1, noNaN: true }), (values, clip) => {
      step += 1;
      for (const { g } of [plain, optimizer]) g.set(values);
      const numbers = stepNumbers(settings, step, 1e-3, clip);
      plainStep(plain, 4, 64, numbers);
      optimizer.step(4, 64, numbers);
      for (const name of ["p", "m", "v"] as const) assert.deepEqual(bitsOf(optimizer[name]), bitsOf(plain[name]), name);
      assert.equal(optimizer.squares(8, 60), plainSquares(plain.g, 8, 60));
    }),
    { numRuns: 200 },
  );
});

test("a range leaves what is beside it alone", () => {
  const optimizer = createAdamW(16);
  optimizer.p.fill(1);
  optimizer.g.fill(1);
  optimizer.step(4, 8, stepNumbers(settings, 1, 0.5, 1));
  assert.deepEqual(
    [...optimizer.p].map((value) => value !== 1),
    Array.from({ length: 16 }, (_, i) => i >= 4 && i < 8),
  );
});

test("ten steps are the formula's in f64", () => {
  const arrays: Arrays = { p: Float32Array.of(0.5), m: Float32Array.of(0), v: Float32Array.of(0), g: Float32Array.of(0) };
  let [p, m, v] = [0.5, 0, 0];
  for (let step = 1; step <= 10; step++) {
    const g = Math.fround(Math.sin(step));
    arrays.g[0] = g;
    plainStep(arrays, 0, 1, stepNumbers(settings, step, 0.01, 1));
    m = 0.9 * m + 0.1 * g;
    v = 0.95 * v + 0.05 * g * g;
    p -= 0.01 * (m / (1 - 0.9 ** step) / (Math.sqrt(v / (1 - 0.95 ** step)) + 1e-8) + 0.1 * p);
  }
  assert.ok(Math.abs(arrays.p[0]! - p) <= 1e-6, `${arrays.p[0]} is not ${p}`);
});
