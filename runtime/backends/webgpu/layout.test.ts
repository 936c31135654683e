// Device layouts and grids: every value is where the kernels read it, panels and grids respect the limits. No GPU needed.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { randomTensor } from "../../kernels/random.ts";
import type { MoeLayer } from "../../kernels/segment.ts";
import { asF32 } from "../../kernels/weights.ts";
import { programOf } from "../../models/index.ts";
import { quantizeInt4 } from "../../weights/codecs/int4.ts";
import { grid, matrixBytes, matrixPanels, type Panel, tablePanels, vectors } from "./layout.ts";
import { lowerSegment, residentBytesOf } from "./lowered.ts";

const bytesOf = (panels: readonly Panel[]): number =>
  panels.flatMap(({ parts }) => parts).reduce((bytes, part) => bytes + part.byteLength, 0);

test("f32: value (n, k) lies at [k][n] of its panel, padding is zero, and no panel exceeds the binding limit", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 70 }), fc.integer({ min: 1, max: 70 }), fc.integer({ min: 300, max: 9000 }), (n, k, limit) => {
      const { data } = randomTensor(1, [n, k]);
      fc.pre(limit >= 16 * k);
      const panels = matrixPanels({ form: "f32", shape: [n, k], data }, limit);
      let covered = 0;
      for (const { first, columns, parts } of panels) {
        assert.equal(first, covered);
        covered += columns;
        const stride = vectors(columns) * 4;
        const part = parts[0]!;
        assert.ok(part.byteLength <= limit);
        for (let i = 0; i < k; i++) {
          for (let c = 0; c < stride; c++) assert.equal(part[i * stride + c], c < columns ? data[(first + c) * k + i] : 0);
        }
      }
      assert.equal(covered, n);
    }),
  );
});

test("int4: words, scales and zeros of the panels give back the dequantised weight, whatever the alignment of the stored bytes", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 4 }), fc.integer({ min: 0, max: 3 }), (n, blocks, shift) => {
      const k = 32 * blocks;
      const weight = quantizeInt4(randomTensor(2, [n, k]).data, n, k);
      const moved = new Uint8Array(weight.q.length + shift);
      moved.set(weight.q, shift);
      const want = asF32(weight);
      for (const { first, columns, parts } of matrixPanels({ ...weight, q: moved.subarray(shift) }, 4096)) {
        const stride = vectors(columns) * 4;
        const [words, scales, zeros] = parts as [Uint32Array, Float32Array, Float32Array];
        for (let c = 0; c < columns; c++) {
          for (let i = 0; i < k; i++) {
            const q = (words[(i >> 3) * stride + c]! >>> (4 * (i & 7))) & 15;
            const block = (i >> 5) * stride + c;
            assert.equal(Math.fround((q - zeros[block]!) * scales[block]!), want[(first + c) * k + i]);
          }
        }
      }
    }),
  );
});

test("a table is cut into panels of whole rows that cover it once", () => {
  const { data } = randomTensor(3, [50, 7]);
  const panels = tablePanels(data, [50, 7], 300);
  assert.ok(panels.length > 1);
  assert.deepEqual(
    panels.flatMap(({ parts }) => [...parts[0]!]),
    [...data],
  );
});

test("a grid holds every workgroup, wastes less than a row, and stays within the limit per dimension", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 4_000_000 }), fc.integer({ min: 2000, max: 65535 }), (groups, limit) => {
      const [x, y] = grid(groups, limit);
      assert.ok(x <= limit && y <= limit && x * y >= groups && x * y - groups < x);
    }),
  );
});

test("planned resident bytes of an expert are exactly what its upload takes, in both forms", () => {
  const config = {
    architectures: ["MixtralForCausalLM"],
    hidden_size: 96,
    intermediate_size: 160,
    num_hidden_layers: 1,
    num_attention_heads: 4,
    num_key_value_heads: 4,
    vocab_size: 9,
    max_position_embeddings: 8,
    num_local_experts: 2,
    num_experts_per_tok: 1,
  };
  const { expert } = programOf(config).layers[0] as MoeLayer;
  for (const form of ["f32", "int4"] as const) {
    const weights = Object.fromEntries(
      expert.weights.map(({ name, shape }) => {
        const [n, k] = shape as [number, number];
        const { data } = randomTensor(4, shape);
        return [name, form === "f32" ? { form, shape, data } : quantizeInt4(data, n, k)];
      }),
    );
    const { uploads } = lowerSegment(expert, weights, 1 << 20);
    const uploaded = [...uploads.values()].reduce((bytes, data) => bytes + data.byteLength, 0);
    assert.equal(
      residentBytesOf(expert, Object.fromEntries(expert.weights.map(({ name, shape }) => [name, shape.length === 2 ? form : "f32"]))),
      uploaded,
    );
  }
  const panels = matrixPanels({ form: "f32", shape: [6, 5], data: new Float32Array(30) }, 1 << 20);
  assert.equal(matrixBytes("f32", [6, 5]), bytesOf(panels));
});
