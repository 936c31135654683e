// Families whose rows carry something from layer to layer, and experts that cost nothing: without what their papers add they are Mixtral to
// the bit, with it they are not; and what their configs must not say.
import assert from "node:assert/strict";
import { test } from "node:test";
import { loadModel, type ModelWeights } from "../../test/kit/models/small-engine.ts";
import { modelOfProgram, syntheticWeight } from "../../test/kit/models/synthetic.ts";
import { createReferenceBackend } from "../compute/reference.ts";
import { checkProgram } from "../kernels/check-program.ts";
import type { ModelProgram } from "../kernels/segment.ts";
import { widthBehind, widthInto } from "../kernels/widths.ts";
import { programOf } from "./index.ts";

const base = {
  hidden_size: 16,
  intermediate_size: 24,
  num_hidden_layers: 4,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  vocab_size: 32,
  max_position_embeddings: 64,
  num_local_experts: 4,
  num_experts_per_tok: 2,
};
const mixtral = { ...base, architectures: ["MixtralForCausalLM"] };
const momentum = { ...base, architectures: ["MomentumSMoEForCausalLM"] };
const plusPlus = { ...base, architectures: ["MoEPlusPlusForCausalLM"] };
const recurrent = { ...base, architectures: ["RMoEForCausalLM"], router_hidden_size: 8 };

/** Weights that families share, under one name. */
const shared = (name: string): string => name.replace("block_sparse_moe.", "mlp.");

type Zero = (name: string) => boolean;

const weightsOf = (program: ModelProgram, zero: Zero): ModelWeights =>
  modelOfProgram(program, (name, shape) => {
    const weight = syntheticWeight(shared(name), shape);
    return zero(name) ? { ...weight, data: new Float32Array(weight.data.length) } : weight;
  });

const tokens = [3, 1, 4, 1, 5, 9, 2, 6, 5, 30];

/** Logits, and the experts of every layer. */
async function forward(config: object, zero: Zero = () => false) {
  const program = programOf(config);
  checkProgram(program);
  const backend = await createReferenceBackend({ threads: 1 });
  const model = await loadModel(backend, weightsOf(program, zero), { context: 16 });
  const logits = await model.forward(tokens, 0);
  const routes = model.routes.map((ids) => [...ids]);
  await model.dispose();
  return { logits, routes };
}

test("MomentumSMoE without momentum and with a step of 1 is Mixtral to the bit; with momentum, or another step, it is not", async () => {
  const plain = await forward(mixtral);
  assert.deepEqual(await forward({ ...momentum, momentum: 0, momentum_step: 1 }), plain);
  assert.notDeepEqual((await forward({ ...momentum, momentum: 0.5, momentum_step: 1 })).logits, plain.logits);
  assert.notDeepEqual((await forward({ ...momentum, momentum: 0, momentum_step: 0.5 })).logits, plain.logits);
});

test("a model of one layer has no momentum to hand on", async () => {
  const one = { num_hidden_layers: 1 };
  assert.deepEqual(await forward({ ...momentum, ...one, momentum: 0.9 }), await forward({ ...mixtral, ...one }));
});

test("gates of MoE++ that get nothing of the layer before are those without a residual; otherwise they are others", async () => {
  const without = await forward({ ...plusPlus, gating_residual: false });
  const silent = await forward(plusPlus, (name) => name.endsWith("gate.residual.weight"));
  assert.deepEqual(silent, without);
  assert.notDeepEqual((await forward(plusPlus)).routes, without.routes);
});

test("experts that give nothing, or a copy, or a constant of theirs, differ where they are chosen", async () => {
  const count = { gating_residual: false, num_constant_experts: 0, num_copy_experts: 0, num_zero_experts: 2 };
  const zeros = await forward({ ...plusPlus, ...count });
  assert.ok(zeros.routes.flat().some((id) => id >= 4));
  const copies = await forward({ ...plusPlus, ...count, num_copy_experts: 2, num_zero_experts: 0 });
  const constants = await forward({ ...plusPlus, ...count, num_constant_experts: 2, num_zero_experts: 0 });
  assert.deepEqual([copies.routes[0], constants.routes[0]], [zeros.routes[0], zeros.routes[0]]);
  assert.notDeepEqual(copies.logits, zeros.logits);
  assert.notDeepEqual(constants.logits, copies.logits);
});

test("the state of RMoE's gates comes from the layers before: a GRU that does not see it has other gates", async () => {
  const held = await forward(recurrent);
  const stateless = await forward(recurrent, (name) => name.startsWith("model.router_cell.state."));
  assert.notDeepEqual(stateless.logits, held.logits);
});

test("rows are wider between layers by what they carry, and not at the ends", () => {
  const widths = (config: object) => programOf(config).layers.map((layer) => [widthInto(layer), widthBehind(layer)]);
  const between = (width: number) => [
    [16, width],
    [width, width],
    [width, width],
    [width, 16],
  ];
  assert.deepEqual(widths(mixtral), between(16));
  assert.deepEqual(widths(momentum), between(32));
  assert.deepEqual(widths(plusPlus), between(16 + 8));
  assert.deepEqual(widths(recurrent), between(16 + 8));
});

const refused: Record<string, { readonly config: object; readonly message: RegExp }> = {
  "MoE++ without a free expert": {
    config: { ...plusPlus, num_constant_experts: 0, num_copy_experts: 0, num_zero_experts: 0 },
    message: /num_zero_experts is 0, supported: at least one of zero, copy and constant experts/,
  },
  "a weight of free experts of nothing": { config: { ...plusPlus, free_experts_tau: 0 }, message: /free_experts_tau/ },
  "a momentum that never ends": { config: { ...momentum, momentum: 1 }, message: /momentum/ },
  "a state of nothing": { config: { ...recurrent, router_hidden_size: 0 }, message: /router_hidden_size/ },
};

for (const [name, { config, message }] of Object.entries(refused)) {
  test(`${name}: refused by field`, () => {
    assert.throws(() => programOf(config), { message });
  });
}

test("a layer that takes other rows than it is given is refused by name", () => {
  const program = programOf(momentum);
  assert.throws(() => checkProgram({ ...program, layers: program.layers.slice(1) }), {
    code: "InvalidProgram",
    message: /block.1: is given rows of 16 values and takes 32/,
  });
  assert.throws(() => checkProgram({ ...program, layers: program.layers.slice(0, 2) }), {
    code: "InvalidProgram",
    message: /head: is given rows of 32 values and takes 16/,
  });
});
