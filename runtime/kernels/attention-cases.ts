// The test cases of attention: head ratios, unequal pasts, chunks, windows, boundary sizes.

import { type Attention, attentionOutputs } from "./attention-op.ts";
import { type KernelCase, kernelCase } from "./kernel.ts";
import { rowsOfGroups } from "./kv-groups.ts";
import { randomTensor } from "./random.ts";
import { plainRope } from "./rope.ts";
import type { Rope } from "./tensor.ts";

interface Shape {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly groups: readonly { readonly past: readonly number[]; readonly tokens: number; readonly firstSlot?: number }[];
  readonly context: number;
  readonly window?: number;
  /** Unset: as wide as keys. */
  readonly valueDim?: number;
  readonly rope?: Rope;
  readonly sinks?: true;
  /** The deviation of queries and keys; unset = 2. Scores and f32 errors grow with its square. */
  readonly deviation?: number;
}

/** Cases with a past start from a zeroed cache; test/contract covers real history. */
function shaped(name: string, shape: Shape): KernelCase<Attention> {
  const groups = shape.groups.map(({ past, tokens, firstSlot = 0 }) => ({
    firstSlot,
    batch: past.length,
    tokens,
    past: Int32Array.from(past),
  }));
  const rows = rowsOfGroups(groups);
  const valueDim = shape.valueDim ?? shape.headDim;
  const deviation = shape.deviation ?? 2;
  const { heads, kvHeads, headDim, context } = shape;
  return kernelCase(
    { outputs: attentionOutputs },
    {
      name,
      op: {
        ...{ op: "attention", q: "q", k: "k", v: "v", layer: 0, heads, kvHeads, headDim, valueDim, out: "out" },
        rope: shape.rope ?? plainRope(headDim, 1e4),
        scale: 1 / Math.sqrt(headDim),
        window: shape.window ?? 0,
        ...(shape.sinks ? { sinks: "sinks" } : {}),
      },
      weights: shape.sinks ? { sinks: randomTensor(15, [heads], 2) } : {},
      inputs: {
        q: randomTensor(12, [rows, heads * headDim], deviation),
        k: randomTensor(13, [rows, kvHeads * headDim], deviation),
        v: randomTensor(14, [rows, kvHeads * valueDim]),
      },
      kv: {
        slots: groups.reduce((most, { firstSlot, batch }) => Math.max(most, firstSlot + batch), 0),
        heads,
        kvHeads,
        context,
        headDim,
        valueDim,
        groups,
      },
    },
  );
}

export const attentionCases = (): readonly KernelCase<Attention>[] => [
  shaped("one token, empty past", { heads: 2, kvHeads: 1, headDim: 16, groups: [{ past: [0], tokens: 1 }], context: 4 }),
  shaped("prefill that fills the context", { heads: 4, kvHeads: 2, headDim: 16, groups: [{ past: [0], tokens: 65 }], context: 65 }),
  shaped("prefill of 63 with as many kv heads as heads", {
    heads: 3,
    kvHeads: 3,
    headDim: 16,
    groups: [{ past: [0], tokens: 63 }],
    context: 64,
  }),
  shaped("chunk of 5 on a past of 64", { heads: 9, kvHeads: 3, headDim: 64, groups: [{ past: [64], tokens: 5 }], context: 128 }),
  shaped("decode of 3 with unequal pasts", { heads: 4, kvHeads: 2, headDim: 32, groups: [{ past: [0, 63, 17], tokens: 1 }], context: 64 }),
  shaped("decode of 2 from slot 1", {
    heads: 4,
    kvHeads: 1,
    headDim: 16,
    groups: [{ past: [3, 9], tokens: 1, firstSlot: 1 }],
    context: 16,
  }),
  shaped("window of 7", { heads: 4, kvHeads: 2, headDim: 16, groups: [{ past: [0], tokens: 20 }], context: 32, window: 7 }),
  shaped("window of 1 sees itself alone", { heads: 2, kvHeads: 2, headDim: 16, groups: [{ past: [2], tokens: 3 }], context: 8, window: 1 }),
  shaped("sinks under a window", {
    heads: 4,
    kvHeads: 2,
    headDim: 16,
    groups: [{ past: [3], tokens: 9 }],
    context: 16,
    window: 4,
    sinks: true,
  }),
  shaped("values narrower than keys, whose last part turns in pairs", {
    heads: 3,
    kvHeads: 3,
    headDim: 24,
    valueDim: 16,
    rope: { ...plainRope(8, 1e4), from: 16, interleaved: true },
    groups: [{ past: [0, 3], tokens: 5 }],
    context: 8,
  }),
  shaped("two that decode and chunks of two prompts, in one call", {
    heads: 4,
    kvHeads: 2,
    headDim: 16,
    groups: [
      { past: [5, 0], tokens: 1, firstSlot: 1 },
      { past: [70], tokens: 7, firstSlot: 4 },
      { past: [0], tokens: 3 },
    ],
    context: 80,
    window: 4,
    sinks: true,
  }),
  shaped("a rotation whose cosines are scaled", {
    heads: 2,
    kvHeads: 1,
    headDim: 16,
    rope: { ...plainRope(16, 1e4), factor: 1.25 },
    deviation: 2 / 1.25,
    groups: [{ past: [0], tokens: 7 }],
    context: 8,
  }),
];
