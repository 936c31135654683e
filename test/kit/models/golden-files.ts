// The golden files that transformers made, and the checkpoints beside them, as tests of backends read them.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { WeightData } from "../../../runtime/kernels/weights.ts";
import { familyOf } from "../../../runtime/models/index.ts";
import { layerShapes } from "../../../runtime/weights/layer-shapes.ts";
import type { Checkpoint } from "../../../runtime/weights/tensor-view.ts";
import type { ModelWeights } from "./small-engine.ts";

const goldenMagic = "enodia-golden";
const goldenVersion = 1;

interface Header {
  readonly magic: string;
  readonly version: number;
  readonly remake: string;
}

export function readGolden<G extends Header>(path: string): G {
  const golden = JSON.parse(readFileSync(path, "utf8")) as G;
  assert.deepEqual([golden.magic, golden.version], [goldenMagic, goldenVersion], `${path}: remake with ${golden.remake}`);
  return golden;
}

export const floatsOf = (base64: string): Float32Array => {
  const bytes = Uint8Array.from(Buffer.from(base64, "base64"));
  return new Float32Array(bytes.buffer);
};

/** A Hugging Face folder as the harness wants it. */
export function modelOf(folder: string, checkpoint: Checkpoint): ModelWeights {
  const config: unknown = JSON.parse(readFileSync(join(folder, "config.json"), "utf8"));
  const family = familyOf(config);
  const program = family.program(config);
  const shapes = layerShapes(program);
  const all = async (entries: readonly Promise<readonly [string, WeightData]>[]) => Object.fromEntries(await Promise.all(entries));
  return {
    program,
    weights: (segment) =>
      all(segment.weights.map(async ({ name, shape }) => [name, { form: "f32", shape, data: await checkpoint.read(name) }] as const)),
    expert(layer, expert) {
      const tensors = family.expertTensors(layer, expert);
      const read = async (name: string, shape: readonly number[]) =>
        [name, { form: "f32", shape, data: await checkpoint.read(tensors[name] ?? name) }] as const;
      return all((shapes[layer]?.matrices ?? []).map(({ name, shape }) => read(name, shape)));
    },
  };
}

export const argmax = (logits: Float32Array): number => logits.reduce((best, value, i) => (value > logits[best]! ? i : best), 0);
