// The configs that GGUF metadata gives are read by the families that serve them.
import assert from "node:assert/strict";
import { test } from "node:test";
import { familyOf } from "../../models/index.ts";
import { ggufModel } from "./index.ts";

const sizes: Readonly<Record<string, number>> = {
  ...{ block_count: 2, context_length: 512, embedding_length: 64, feed_forward_length: 32, expert_feed_forward_length: 32 },
  ...{ expert_count: 4, expert_used_count: 2, "attention.head_count": 4, "attention.head_count_kv": 2 },
  ...{ "attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 10_000 },
};

test("the config of every architecture with experts is a program of its family", () => {
  for (const [architecture, family] of Object.entries({ llama: "mixtral", qwen3moe: "qwen3-moe", olmoe: "olmoe" })) {
    const own = Object.entries(sizes).map(([key, value]) => [`${architecture}.${key}`, value] as const);
    const metadata = new Map<string, string | number>([["general.architecture", architecture], ...own]);
    const { config } = ggufModel({ path: "x.gguf", metadata, names: ["output.weight"], shape: () => [320, 64] }, 320);
    const read = familyOf(config);
    assert.equal(read.name, family);
    const [layer] = read.program(config).layers;
    assert.ok(layer?.kind === "moe");
    assert.deepEqual([layer.experts, layer.topK, layer.expert.weights[0]?.shape], [4, 2, [32, 64]]);
  }
});
