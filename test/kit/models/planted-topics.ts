// A small Mixtral whose router tells topics apart: a token's topic is its id modulo their number, and stays what it is through the layers.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { seeded } from "../../../operator/planner/random.ts";
import { importMoe } from "../../../runtime/modelstore/import-moe.ts";
import type { ExpertIndex } from "../../../runtime/weights/store.ts";
import { changedCheckpoint, type Tensors } from "./changed-checkpoint.ts";

export const plantedTopics = 3;
const [layers, experts, hidden, vocab, width] = [6, 12, 64, 320, 96];
/** Of a token's embedding its topic's direction has this length; the rest has about 1, and what layers add is small. */
const [topicLength, quiet] = [3, 0.1];

export async function plantedStore(): Promise<{ dir: string; index: ExpertIndex; remove: () => void }> {
  const root = mkdtempSync(join(tmpdir(), "enodia-planted-"));
  const from = await changedCheckpoint(join(import.meta.dirname, "../../golden/tiny-f32"), root, plant);
  const dir = join(root, "store");
  const index = await importMoe({ from, out: dir, codecs: ["f32"], overwrite: true }, () => {});
  return { dir, index, remove: () => rmSync(root, { recursive: true, force: true }) };
}

function plant(tensors: Tensors, config: Record<string, unknown>): void {
  Object.assign(config, { num_hidden_layers: layers, num_local_experts: experts });
  const random = seeded(1);
  const draw = (length: number, deviation: number): Float32Array => Float32Array.from({ length }, () => deviation * random.normal());
  const directions = Array.from({ length: plantedTopics }, () => draw(hidden, topicLength / Math.sqrt(hidden)));
  const towards = (topic: number, deviation: number): number[] => [
    ...draw(hidden, deviation).map((n, i) => n + (directions[topic]?.[i] ?? 0)),
  ];
  const put = (name: string, shape: readonly number[], data: Float32Array) => tensors.set(`${name}.weight`, { shape, data });
  const rows = (name: string, count: number, deviation: number, topicOf: (row: number) => number) =>
    put(name, [count, hidden], Float32Array.from(Array.from({ length: count }, (_, row) => towards(topicOf(row), deviation)).flat()));
  const small = (name: string, out: number, from: number) => put(name, [out, from], draw(out * from, quiet / Math.sqrt(from)));
  for (const name of ["model.embed_tokens", "lm_head"]) rows(name, vocab, 1 / Math.sqrt(hidden), (id) => id % plantedTopics);
  for (let layer = 0; layer < layers; layer++) {
    const at = `model.layers.${layer}`;
    for (const norm of ["input_layernorm", "post_attention_layernorm"]) put(`${at}.${norm}`, [hidden], new Float32Array(hidden).fill(1));
    for (const [part, out] of Object.entries({ q_proj: 64, k_proj: 32, v_proj: 32, o_proj: hidden }))
      small(`${at}.self_attn.${part}`, out, hidden);
    const shift = Math.floor(experts * random.next());
    rows(`${at}.block_sparse_moe.gate`, experts, 0.5, (e) => Math.floor(((e * 5 + shift) % experts) / 4));
    for (let e = 0; e < experts; e++) {
      for (const part of ["w1", "w3"]) small(`${at}.block_sparse_moe.experts.${e}.${part}`, width, hidden);
      small(`${at}.block_sparse_moe.experts.${e}.w2`, hidden, width);
    }
  }
}
