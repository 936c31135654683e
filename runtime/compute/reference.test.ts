// Gradients of whole segments by the tape, against finite differences: a Mixtral block and an expert, as training will run them.
import assert from "node:assert/strict";
import { test } from "node:test";
import { differentiate } from "../../test/kit/training/differentiate.ts";
import { floats, type KvRows } from "../kernels/kernel.ts";
import { gaussian, randomTensor } from "../kernels/random.ts";
import { plainRope } from "../kernels/rope.ts";
import type { Op, Segment, Tensor } from "../kernels/segment.ts";
import { evaluate } from "./reference.ts";

const f32 = (name: string, width: number) => ({ name, dtype: "f32" as const, width });
const matMul = (x: string, weight: string, out: string): Op => ({ op: "matMul", x, weight, out });

const block: Segment = {
  name: "block.0",
  inputs: [f32("x", 8)],
  outputs: [f32("h", 8), f32("f", 8), { name: "ids", dtype: "i32", width: 2 }, f32("gates", 2)],
  weights: [
    { name: "n1", shape: [8] },
    { name: "wq", shape: [8, 8] },
    { name: "wk", shape: [4, 8] },
    { name: "wv", shape: [4, 8] },
    { name: "wo", shape: [8, 8] },
    { name: "n2", shape: [8] },
    { name: "wr", shape: [5, 8] },
  ],
  ops: [
    { op: "rmsNorm", x: "x", weight: "n1", eps: 1e-3, out: "a" },
    matMul("a", "wq", "q"),
    matMul("a", "wk", "k"),
    matMul("a", "wv", "v"),
    {
      op: "attention",
      q: "q",
      k: "k",
      v: "v",
      layer: 0,
      heads: 2,
      kvHeads: 1,
      headDim: 4,
      valueDim: 4,
      rope: plainRope(4, 100),
      scale: 0.5,
      window: 0,
      out: "o",
    },
    matMul("o", "wo", "p"),
    { op: "add", a: "x", b: "p", out: "h" },
    { op: "rmsNorm", x: "h", weight: "n2", eps: 1e-3, out: "f" },
    matMul("f", "wr", "logits"),
    { op: "route", logits: "logits", topK: 2, normalize: true, ids: "ids", gates: "gates" },
  ],
};

const expert: Segment = {
  name: "expert",
  inputs: [f32("x", 6)],
  outputs: [f32("y", 6)],
  weights: [
    { name: "w1", shape: [10, 6] },
    { name: "w2", shape: [6, 10] },
    { name: "w3", shape: [10, 6] },
  ],
  ops: [matMul("x", "w1", "g"), matMul("x", "w3", "u"), { op: "siluMul", a: "g", b: "u", out: "m" }, matMul("m", "w2", "y")],
};

/** Two sequences of three tokens. */
const kvOf = (): KvRows => ({
  keys: new Float32Array(2 * 3 * 4),
  values: new Float32Array(2 * 3 * 4),
  context: 3,
  groups: [{ firstSlot: 0, batch: 2, tokens: 3, past: new Int32Array(2) }],
});

for (const segment of [block, expert]) {
  test(`${segment.name}: gradients of input and every weight equal finite differences`, () => {
    const given: Record<string, Tensor> = { x: randomTensor(1, [6, segment.inputs[0]!.width]) };
    for (const [i, { name, shape }] of segment.weights.entries()) {
      const random = randomTensor(10 + i, shape, shape.length === 1 ? 0.3 : 0.6);
      given[name] = shape.length === 1 ? { shape, data: random.data.map((value) => value + 1) } : random;
    }
    const tape = evaluate(segment, given, kvOf);
    const directions: Record<string, Float32Array> = {};
    for (const { name, dtype } of segment.outputs) {
      if (dtype === "f32") directions[name] = gaussian(name.length, floats(tape.get(name)!).length);
    }
    const loss = (values: Record<string, Tensor>): number => {
      const out = evaluate(segment, values, kvOf);
      return Object.entries(directions).reduce(
        (sum, [name, direction]) => sum + direction.reduce((part, d, i) => part + d * floats(out.get(name)!)[i]!, 0),
        0,
      );
    };
    const gradients = differentiate(segment, tape, directions, kvOf);
    const step = 1 / 512;
    for (const [name, tensor] of Object.entries(given)) {
      const gradient = gradients[name]!;
      const scale = gradient.reduce((most, value) => Math.max(most, Math.abs(value)), 0.1);
      for (let i = 0; i < gradient.length; i++) {
        const at = (delta: number): number => {
          const moved = floats(tensor).slice();
          moved[i] = moved[i]! + delta;
          return loss({ ...given, [name]: { shape: tensor.shape, data: moved } });
        };
        const want = (at(step) - at(-step)) / (2 * step);
        assert.ok(Math.abs(gradient[i]! - want) <= 3e-3 * scale, `d${name}[${i}]: backward ${gradient[i]}, differences ${want}`);
      }
    }
  });
}
