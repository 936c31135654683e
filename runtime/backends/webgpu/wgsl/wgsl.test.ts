// Snapshots of the generated WGSL: a change of a kernel shows as a diff. Remake: node --test --test-update-snapshots <this file>.
// What the kernels compute is proven by test/contract/webgpu.test.ts; here only their text, and that all of it is f32 core WGSL.
import assert from "node:assert/strict";
import { test } from "node:test";
import { appendWgsl, attendWgsl } from "./attention.ts";
import { addWgsl, siluMulWgsl } from "./elementwise.ts";
import { gatherWgsl } from "./gather.ts";
import { matMulF32Wgsl, matMulInt4Wgsl } from "./mat-mul.ts";
import { rmsNormWgsl } from "./rms-norm.ts";
import { routeWgsl } from "./route.ts";
import { f32 } from "./shader.ts";

const heads = { heads: 9, kvHeads: 3, headDim: 64 };
const shaders: Record<string, string> = {
  gather: gatherWgsl(576, 0, 49152),
  "gather, second panel": gatherWgsl(576, 1000, 24),
  rmsNorm: rmsNormWgsl(576, 1e-5),
  "matMul f32": matMulF32Wgsl({ k: 576, n: 1536, first: 0, columns: 1536 }),
  "matMul f32, last panel of odd width": matMulF32Wgsl({ k: 65, n: 131, first: 128, columns: 3 }),
  "matMul int4": matMulInt4Wgsl({ k: 576, n: 1536, first: 0, columns: 1536 }),
  add: addWgsl(576),
  siluMul: siluMulWgsl(1536),
  "rotate and append": appendWgsl(heads),
  attend: attendWgsl({ ...heads, scale: 0.125, window: 0 }),
  "attend, window": attendWgsl({ ...heads, headDim: 96, scale: 0.125, window: 4096 }),
  route: routeWgsl({ experts: 8, topK: 2, normalize: true }),
  "route, not normalised": routeWgsl({ experts: 8, topK: 2, normalize: false }),
};

for (const [name, wgsl] of Object.entries(shaders)) {
  test(`WGSL of ${name}`, (t) => {
    assert.doesNotMatch(wgsl, /undefined|NaN|\[object/);
    assert.doesNotMatch(wgsl, /^\s*enable |f16|subgroup/m, "needs nothing beyond core features");
    t.assert.snapshot(wgsl, { serializers: [(value) => value] });
  });
}

test("numbers become f32 literals", () => {
  assert.deepEqual([0.125, 64, 1e-5, 1e-7, 3e38].map(f32), ["0.125f", "64.0f", "0.00001f", "1e-7f", "3e+38f"]);
});
