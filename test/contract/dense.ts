// A dense Llama and the Mixtral whose experts are all its FFN give the same logits on a backend, whatever the router says;
// with noise on the experts they do not (the control). Called by one test file per backend.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import type { Backend, Compiled } from "../../runtime/compute/backend.ts";
import { relativeError } from "../../runtime/compute/op-self-test.ts";
import { gaussian } from "../../runtime/kernels/random.ts";
import type { MoeLayer, Segment, Tensor } from "../../runtime/kernels/segment.ts";
import type { WeightData, Weights } from "../../runtime/kernels/weights.ts";
import { programOf } from "../../runtime/models/index.ts";
import { ffnTensors, llamaProgram } from "../../runtime/models/llama.ts";
import { loadModel, type ModelWeights } from "../kit/models/small-engine.ts";
import { syntheticWeight } from "../kit/models/synthetic.ts";

const dense = {
  architectures: ["LlamaForCausalLM"],
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 3,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  vocab_size: 97,
  max_position_embeddings: 64,
  rms_norm_eps: 1e-5,
  rope_theta: 1e4,
  tie_word_embeddings: true,
};
const sparse = { ...dense, architectures: ["MixtralForCausalLM"], num_local_experts: 4, num_experts_per_tok: 2 };

const weightsOf = (segment: Segment): Weights =>
  Object.fromEntries(segment.weights.map(({ name, shape }) => [name, syntheticWeight(name, shape)]));

/** Each expert is the layer's FFN plus noise of this relative size. */
function upcycled(noise: number): ModelWeights {
  const program = programOf(sparse);
  return {
    program,
    weights: weightsOf,
    expert: (layer, expert) =>
      Object.fromEntries(
        (program.layers[layer] as MoeLayer).expert.weights.map(({ name, shape }): [string, WeightData] => {
          const weight = syntheticWeight(ffnTensors(layer)[name as "w1" | "w2" | "w3"], shape);
          const added = gaussian(expert + 1, weight.data.length, noise / Math.sqrt(shape[1]!));
          return [name, { ...weight, data: weight.data.map((value, i) => value + added[i]!) }];
        }),
      ),
  };
}

async function denseLogits(backend: Backend, ids: readonly number[]): Promise<Float32Array> {
  const program = llamaProgram(dense);
  const segments = [program.embed, ...program.blocks, program.head];
  const compiled: Compiled[] = [];
  for (const segment of segments) compiled.push(await backend.compile(segment, weightsOf(segment)));
  const kv = await backend.createKv({ ...program, valueDim: program.headDim, slots: 1, context: 32 });
  const call = { cache: kv, groups: [{ firstSlot: 0, batch: 1, tokens: ids.length, past: Int32Array.of(0) }] };
  let value = await compiled[0]!.run({ ids: { shape: [ids.length], data: Int32Array.from(ids) } });
  let x = (value.x as Tensor).data.slice() as Float32Array;
  for (const block of compiled.slice(1, -1)) {
    value = await block.run({ x: { shape: [ids.length, program.hidden], data: x } }, call);
    x = (value.y as Tensor).data.slice() as Float32Array;
  }
  value = await compiled.at(-1)!.run({ x: { shape: [ids.length, program.hidden], data: x } });
  const logits = (value.logits as Tensor).data.slice() as Float32Array;
  for (const part of compiled) await part.dispose();
  await kv.dispose();
  return logits;
}

export function runDenseEquality(options: {
  readonly name: string;
  readonly make: () => Promise<Backend>;
  readonly tolerance: number;
}): void {
  describe(`dense and noise-free sparse model: ${options.name}`, () => {
    let backend: Backend;
    before(async () => {
      backend = await options.make();
    });
    after(async () => {
      await backend?.close();
    });
    const ids = Array.from({ length: 20 }, (_, i) => (i * 37 + 11) % dense.vocab_size);
    const errorWith = async (noise: number): Promise<number> => {
      const model = await loadModel(backend, upcycled(noise), { context: 32 });
      const logits = await model.forward(ids, 0);
      await model.dispose();
      return relativeError(logits, await denseLogits(backend, ids));
    };

    test("experts that are all the dense FFN give the dense model's logits", async () => {
      const error = await errorWith(0);
      assert.ok(error <= options.tolerance, error.toExponential(2));
    });

    test("control: experts with 2% noise do not", async () => {
      const error = await errorWith(0.02);
      assert.ok(error > 10 * options.tolerance, error.toExponential(2));
    });
  });
}
