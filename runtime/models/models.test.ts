// config.json to segments: what is read, what is refused and with which words.
import assert from "node:assert/strict";
import { test } from "node:test";
import { segmentsOf } from "../kernels/check-program.ts";
import { kernelOf } from "../kernels/index.ts";
import type { Segment } from "../kernels/segment.ts";
import { widthsOf } from "../kernels/widths.ts";
import { denseWeights } from "./family.ts";
import { familyOf, programOf } from "./index.ts";
import { llamaProgram } from "./llama.ts";

const base = {
  architectures: ["MixtralForCausalLM"],
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  vocab_size: 128,
  max_position_embeddings: 256,
  rms_norm_eps: 1e-5,
  hidden_act: "silu",
  num_local_experts: 4,
  num_experts_per_tok: 2,
};

const attentionOf = (segment: Segment | undefined) => {
  const op = segment?.ops.find((candidate) => candidate.op === "attention");
  assert.ok(op?.op === "attention");
  return op;
};

/** The base of a rotation of heads of 16, which its second frequency tells. */
const turning = (op: ReturnType<typeof attentionOf>) => Math.round((op.rope.frequencies[1] as number) ** -8);

test("a Mixtral config becomes embed, one block per layer, expert and head", () => {
  const program = programOf(base);
  const [, layer] = program.layers;
  assert.ok(program.layers.length === 2 && layer?.kind === "moe");
  assert.deepEqual([layer.experts, layer.topK, program.hidden, layer.expert.weights[0]?.shape[0], program.headDim], [4, 2, 64, 96, 16]);
  assert.deepEqual(
    layer.block.ops.map((op) => op.op),
    ["rmsNorm", "matMul", "matMul", "matMul", "attention", "matMul", "add", "rmsNorm", "matMul", "route"],
  );
  assert.equal(attentionOf(layer.block).layer, 1);
});

test("every value an op reads is an input, a weight or an earlier output, in all segments of Mixtral and of dense Llama", () => {
  const llama = llamaProgram({ ...base, architectures: ["LlamaForCausalLM"] });
  const mixtral = programOf(base);
  for (const segment of [...segmentsOf(mixtral), ...[llama.embed, ...llama.blocks, llama.head]]) {
    const widths = widthsOf(segment); // throws at a value that is read before it is written
    for (const { name, width } of segment.outputs) assert.equal(widths.get(name), width, `${segment.name}: output ${name}`);
    for (const op of segment.ops) {
      const outs = kernelOf(op)
        .outputs(op)
        .map(({ name }) => name);
      const reads = Object.entries(op).flatMap(([key, value]) => (typeof value === "string" && key !== "op" ? [value] : []));
      assert.deepEqual(new Set([...kernelOf(op).reads(op), ...outs]), new Set(reads), `${segment.name}: ${op.op} declares all it names`);
    }
  }
});

test("a tied model reads its head from the embedding table and lists it once", () => {
  const tied = programOf({ ...base, tie_word_embeddings: true });
  assert.equal(tied.head.weights[1]?.name, "model.embed_tokens.weight");
  const names = denseWeights(tied).map((weight) => weight.name);
  assert.equal(names.filter((name) => name === "model.embed_tokens.weight").length, 1);
  assert.ok(!names.includes("lm_head.weight"));
  assert.ok(
    denseWeights(programOf(base))
      .map((weight) => weight.name)
      .includes("lm_head.weight"),
  );
});

test("options of real checkpoints are honoured", () => {
  const cases: Record<string, { config: object; read: (op: ReturnType<typeof attentionOf>) => unknown; want: unknown }> = {
    "sliding_window null means none": { config: { sliding_window: null }, read: (op) => op.window, want: 0 },
    "sliding_window number": { config: { sliding_window: 7 }, read: (op) => op.window, want: 7 },
    "rope_theta at top level": { config: { rope_theta: 5000 }, read: turning, want: 5000 },
    "rope_theta in rope_parameters": {
      config: { rope_parameters: { rope_type: "default", rope_theta: 7000 } },
      read: turning,
      want: 7000,
    },
    "rope_theta left out": { config: {}, read: turning, want: 1e6 },
    "rope_theta in rope_scaling": {
      config: { rope_theta: 5000, rope_scaling: { rope_type: "default", rope_theta: 9000 } },
      read: turning,
      want: 9000,
    },
    "rope_scaling stands in place of rope_parameters": {
      config: { rope_theta: 5000, rope_parameters: { rope_theta: 7000 }, rope_scaling: { type: "default" } },
      read: turning,
      want: 5000,
    },
    "rope_scaling that says nothing": {
      config: { rope_parameters: { rope_theta: 7000 }, rope_scaling: {} },
      read: turning,
      want: 7000,
    },
    "use_sliding_window is no field of Mixtral": {
      config: { sliding_window: 7, use_sliding_window: false },
      read: (op) => op.window,
      want: 7,
    },
    "head_dim of its own": { config: { head_dim: 32 }, read: (op) => op.headDim, want: 32 },
    "num_key_value_heads null": { config: { num_key_value_heads: null }, read: (op) => op.kvHeads, want: 4 },
    "num_key_value_heads absent": {
      config: { num_key_value_heads: undefined, num_attention_heads: 16 },
      read: (op) => op.kvHeads,
      want: 8,
    },
    "hidden_act swish": { config: { hidden_act: "swish" }, read: (op) => op.heads, want: 4 },
  };
  for (const [name, { config, read, want }] of Object.entries(cases)) {
    assert.equal(read(attentionOf(programOf({ ...base, ...config }).layers[0]?.block)), want, name);
  }
});

test("num_experts is another name of num_local_experts, as it is in transformers", () => {
  const experts = (config: object) => {
    const [layer] = programOf({ ...base, ...config }).layers;
    return layer?.kind === "moe" ? layer.experts : 0;
  };
  assert.equal(experts({ num_local_experts: undefined, num_experts: 6 }), 6);
  assert.equal(experts({ num_experts: 4 }), 4);
});

test("a dense Llama has a default of its own for keys and values, and no window whatever its config says", () => {
  const read = (config: object) => {
    const op = attentionOf(llamaProgram({ ...base, architectures: ["LlamaForCausalLM"], ...config }).blocks[0]);
    return [op.kvHeads, op.window, turning(op)];
  };
  assert.deepEqual(read({ num_key_value_heads: undefined }), [4, 0, 1e4]);
  assert.deepEqual(read({ sliding_window: 7 }), [2, 0, 1e4]);
});

test("what cannot be computed rightly is refused with the field's name", () => {
  const cases: Record<string, { config: object; code: string; says: RegExp }> = {
    "other activation": { config: { hidden_act: "gelu" }, code: "UnsupportedModel", says: /hidden_act is "gelu"/ },
    "scaled rope": { config: { rope_scaling: { type: "yarn" } }, code: "UnsupportedModel", says: /rope_scaling\.rope_type/ },
    "rope by kind of layer": {
      config: { rope_parameters: { full_attention: { rope_type: "default", rope_theta: 1e4 } } },
      code: "UnsupportedModel",
      says: /rope_parameters\.full_attention/,
    },
    "half of a head turned": { config: { partial_rotary_factor: 0.5 }, code: "UnsupportedModel", says: /partial_rotary_factor is 0\.5/ },
    "half of a head turned, said inside": {
      config: { rope_scaling: { rope_type: "default", partial_rotary_factor: 0.5 } },
      code: "UnsupportedModel",
      says: /rope_scaling\.partial_rotary_factor/,
    },
    "two numbers of experts": { config: { num_experts: 8 }, code: "UnsupportedModel", says: /num_experts is 8.*num_local_experts \(4\)/ },
    "eight key and value heads by default, of four": {
      config: { num_key_value_heads: undefined },
      code: "UnsupportedModel",
      says: /num_key_value_heads \(absent, so the family's default\) is 8.*num_attention_heads \(4\)/,
    },
    "top-k above experts": { config: { num_experts_per_tok: 5 }, code: "UnsupportedModel", says: /num_experts_per_tok/ },
    "missing field": { config: { num_local_experts: undefined }, code: "InvalidModelConfig", says: /num_local_experts/ },
    "wrong type": { config: { vocab_size: "many" }, code: "InvalidModelConfig", says: /vocab_size/ },
    "unsplittable heads": { config: { num_attention_heads: 5 }, code: "UnsupportedModel", says: /num_attention_heads/ },
    "unknown architecture": { config: { architectures: ["Foo"] }, code: "UnknownArchitecture", says: /"Foo".*MixtralForCausalLM/ },
    "no architecture": { config: { architectures: undefined }, code: "InvalidModelConfig", says: /architectures/ },
  };
  for (const [name, { config, code, says }] of Object.entries(cases)) {
    assert.throws(
      () => programOf({ ...base, ...config }),
      (error: any) => error.code === code && says.test(error.message),
      name,
    );
  }
  for (const junk of [null, 3, "x", []]) assert.throws(() => familyOf(junk), { code: "InvalidModelConfig" });
});
