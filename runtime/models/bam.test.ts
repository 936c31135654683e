// Experts of attention: equal ones are Mixtral's one attention whatever the gate says, unlike ones are not, shared keys and values are
// copies of them, the cache is counted for all, and what a config must not say.
import assert from "node:assert/strict";
import { test } from "node:test";
import { loadModel } from "../../test/kit/models/small-engine.ts";
import { modelOfProgram, syntheticWeight } from "../../test/kit/models/synthetic.ts";
import { kvBlockBytes } from "../compute/kv-size.ts";
import { relativeError } from "../compute/op-self-test.ts";
import { createReferenceBackend } from "../compute/reference.ts";
import { checkProgram } from "../kernels/check-program.ts";
import type { WeightOf } from "../kernels/weights.ts";
import { programOf } from "./index.ts";

const [attentions, kvHeads, hidden] = [3, 2, 16];
const base = {
  hidden_size: hidden,
  intermediate_size: 24,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: kvHeads,
  vocab_size: 32,
  max_position_embeddings: 64,
  num_local_experts: 4,
  num_experts_per_tok: 2,
};
const mixtral = { ...base, architectures: ["MixtralForCausalLM"] };
const bam = { ...base, architectures: ["BAMForCausalLM"], num_attention_experts: attentions };
const shared = { ...bam, share_key_values: true };

/** A tensor of one attention in a model of another name for its router. */
const plain = (name: string): string => name.replace("block_sparse_moe.", "mlp.");

const pieces: Readonly<Record<string, number>> = { q_proj: kvHeads, k_proj: kvHeads, v_proj: kvHeads, o_proj: hidden * kvHeads };

/** Values of one attention as those of several, in turns: `change` says what each has of them. */
function inTurns(one: Float32Array, count: number, change: (attention: number, value: number) => number): Float32Array {
  const size = one.length / count;
  return Float32Array.from({ length: one.length * attentions }, (_, i) => {
    const piece = Math.floor(i / size);
    return change(piece % attentions, one[Math.floor(piece / attentions) * size + (i % size)] as number);
  });
}

type Change = (attention: number, value: number) => number;

/** Logits of a model whose attentions are all Mixtral's, but for what `changes` of a projection says. */
async function logitsOf(config: object, changes: Readonly<Record<string, Change>> = {}): Promise<Float32Array> {
  const program = programOf(config);
  checkProgram(program);
  const one = new Map(programOf(mixtral).layers.flatMap(({ block }) => block.weights.map(({ name, shape }) => [plain(name), shape])));
  const weightOf = (name: string, shape: readonly number[]): WeightOf<"f32"> => {
    const projection = name.split(".").at(-2) ?? "";
    const own = one.get(plain(name)) ?? shape;
    const weight = syntheticWeight(plain(name), own);
    const count = pieces[projection];
    if (count === undefined || own.every((size, i) => size === shape[i])) return weight;
    return { ...weight, shape, data: inTurns(weight.data, count, changes[projection] ?? ((_, value) => value)) };
  };
  const backend = await createReferenceBackend({ threads: 1 });
  const model = await loadModel(backend, modelOfProgram(program, weightOf), { context: 16 });
  const logits = (await model.forward([3, 1, 4, 1, 5, 9, 2, 6, 5, 30], 0)).slice();
  await model.dispose();
  return logits;
}

test("where all attentions are the same, it is Mixtral; where one differs, it is not", async () => {
  const plainly = await logitsOf(mixtral);
  const equal = relativeError(await logitsOf(bam), plainly);
  assert.ok(equal <= 1e-6, `${equal}`);
  const unlike = relativeError(await logitsOf(bam, { o_proj: (attention, value) => (attention === 1 ? -value : value) }), plainly);
  assert.ok(unlike >= 1e-2, `${unlike}`);
});

test("shared keys and values are copies of them for each, to the bit; keys of one that differ are not", async () => {
  const queries = {
    q_proj: (attention: number, value: number) => value * (attention - 0.5),
    o_proj: (a: number, value: number) => value / (a + 1),
  };
  const once = await logitsOf(shared, queries);
  assert.deepEqual(once, await logitsOf(bam, queries));
  assert.notDeepEqual(once, await logitsOf(bam, { ...queries, k_proj: (attention, value) => (attention === 2 ? -value : value) }));
});

test("the cache has room for the keys and values of all attentions, of shared ones once", () => {
  const bytes = (config: object): number => {
    const { layers, kvHeads: heads, headDim, valueDim, maxContext } = programOf(config);
    return kvBlockBytes({ layers: layers.length, kvHeads: heads, headDim, valueDim, context: maxContext }, 1);
  };
  assert.equal(bytes(bam), attentions * bytes(mixtral));
  assert.equal(bytes(shared), bytes(mixtral));
});

const refused: Record<string, { readonly config: object; readonly message: RegExp }> = {
  "no number of attentions": { config: { ...bam, num_attention_experts: undefined }, message: /num_attention_experts/ },
  "one attention": { config: { ...bam, num_attention_experts: 1 }, message: /num_attention_experts: .*2/ },
  "too many heads": {
    config: { ...bam, num_attention_experts: 257 },
    message: /num_attention_experts is 257, supported: at most 256 of 4 heads each, 1024 heads in all/,
  },
};

for (const [name, { config, message }] of Object.entries(refused)) {
  test(`${name}: refused by field`, () => {
    assert.throws(() => programOf(config), { message });
  });
}
