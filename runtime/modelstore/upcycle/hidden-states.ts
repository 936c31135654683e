// Computes the normed FFN inputs of every layer of a dense Llama, with one layer in memory at a time.
import type { Backend } from "../../compute/backend.ts";
import type { Tensor } from "../../kernels/segment.ts";
import type { WeightData } from "../../kernels/weights.ts";
import type { DenseProgram } from "../../models/llama.ts";
import type { TensorSource } from "../../weights/safetensors.ts";

export interface LayerStates {
  readonly layer: number;
  /** [tokens of all sequences, hidden] */
  readonly states: Float32Array;
}

async function weightsOf(
  source: TensorSource,
  names: readonly { readonly name: string; readonly shape: readonly number[] }[],
): Promise<Record<string, WeightData>> {
  const weights: Record<string, WeightData> = {};
  for (const { name, shape } of names) weights[name] = { form: "f32", shape, data: await source.read(name) };
  return weights;
}

async function embed(
  backend: Backend,
  program: DenseProgram,
  source: TensorSource,
  sequences: readonly (readonly number[])[],
): Promise<Float32Array> {
  const compiled = await backend.compile(program.embed, await weightsOf(source, program.embed.weights));
  try {
    const ids = Int32Array.from(sequences.flat());
    const { x } = await compiled.run({ ids: { shape: [ids.length], data: ids } });
    return Float32Array.from((x as Tensor).data);
  } finally {
    await compiled.dispose();
  }
}

/** The caller may keep the arrays. */
export async function* denseStates(
  backend: Backend,
  program: DenseProgram,
  source: TensorSource,
  sequences: readonly (readonly number[])[],
): AsyncGenerator<LayerStates> {
  const { hidden, layers, kvHeads, headDim } = program;
  let x = await embed(backend, program, source, sequences);
  const context = sequences.reduce((most, ids) => Math.max(most, ids.length), 1);
  const cache = await backend.createKv({ layers, slots: 1, kvHeads, context, headDim, valueDim: headDim });
  try {
    for (const [layer, segment] of program.blocks.entries()) {
      const compiled = await backend.compile(segment, await weightsOf(source, segment.weights));
      const states = new Float32Array(x.length);
      const next = new Float32Array(x.length);
      let at = 0;
      for (const { length } of sequences) {
        const end = at + length * hidden;
        const input = { x: { shape: [length, hidden], data: x.subarray(at, end) } };
        const { f, y } = await compiled.run(input, { cache, groups: [{ firstSlot: 0, batch: 1, tokens: length, past: Int32Array.of(0) }] });
        states.set((f as Tensor).data, at);
        next.set((y as Tensor).data, at);
        at = end;
      }
      await compiled.dispose();
      x = next;
      yield { layer, states };
    }
  } finally {
    await cache.dispose();
  }
}
