// The import of a large checkpoint in little memory: `npm run test:import [-- GB]` makes a GGUF of so many gigabytes (default 6, all holes,
// in Qwen3-30B-A3B's shapes in bf16), imports it with a small heap, and fails if the process ever held more than the bound. Not part of
// npm test: it writes as many bytes again, and takes some minutes.
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { importModel } from "../../runtime/modelstore/import.ts";
import { type GgufMeta, ggufHeader } from "../kit/models/gguf-writer.ts";
import { tokenizerMetadata } from "../kit/models/moe-gguf.ts";

/** Resident memory of the importing process, at most: an expert and a piece take megabytes, Node and the code the rest. */
const residentBytesMax = 512 * 2 ** 20;
/** MiB of JavaScript objects, at most; what is read lies outside. */
const heapMib = 128;

const [hidden, ffn, experts, heads, kv, head, vocab] = [2048, 768, 128, 32, 4, 128, 320];
const bf16 = { type: 30, bytes: 2 };

async function sparseGguf(path: string, gigabytes: number): Promise<number> {
  const layerBytes = 3 * experts * ffn * hidden * bf16.bytes;
  const layers = Math.max(1, Math.round((gigabytes * 1e9) / layerBytes));
  const shapes: Record<string, readonly number[]> = {
    ...{ "token_embd.weight": [vocab, hidden], "output_norm.weight": [hidden], "output.weight": [vocab, hidden] },
  };
  for (let layer = 0; layer < layers; layer++) {
    const own: Record<string, readonly number[]> = {
      ...{ attn_norm: [hidden], attn_q_norm: [head], attn_k_norm: [head], ffn_norm: [hidden], ffn_gate_inp: [experts, hidden] },
      ...{ attn_q: [heads * head, hidden], attn_k: [kv * head, hidden], attn_v: [kv * head, hidden], attn_output: [hidden, heads * head] },
      ...{ ffn_gate_exps: [experts, ffn, hidden], ffn_up_exps: [experts, ffn, hidden], ffn_down_exps: [experts, hidden, ffn] },
    };
    for (const [part, shape] of Object.entries(own)) shapes[`blk.${layer}.${part}.weight`] = shape;
  }
  const tensors = Object.entries(shapes).map(([name, shape]) => {
    const matrix = shape.length > 1;
    const bytes = shape.reduce((a, b) => a * b, matrix ? bf16.bytes : 4);
    return { name, shape, type: matrix ? bf16.type : 0, bytes };
  });
  const of: Record<string, GgufMeta> = {
    ...{ block_count: layers, context_length: 4096, embedding_length: hidden, feed_forward_length: 6144, expert_count: experts },
    ...{ expert_feed_forward_length: ffn, expert_used_count: 8, "attention.head_count": heads, "attention.head_count_kv": kv },
    ...{ "attention.key_length": head, "attention.layer_norm_rms_epsilon": 1e-6, "rope.freq_base": 1_000_000 },
  };
  const metadata = {
    "general.architecture": "qwen3moe",
    ...Object.fromEntries(Object.entries(of).map(([key, value]) => [`qwen3moe.${key}`, value])),
    ...(await tokenizerMetadata()),
  };
  const header = ggufHeader(metadata, tensors);
  writeFileSync(path, header);
  const size = header.length + tensors.reduce((sum, { bytes }) => sum + Math.ceil(bytes / 32) * 32, 0);
  truncateSync(path, size);
  return size;
}

const mib = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(0)} MiB`;

async function child(source: string, out: string): Promise<void> {
  const start = process.resourceUsage().maxRSS * 1024;
  await importModel({ source, out, overwrite: false, cache: out, secrets: { HF_ENDPOINT: "http://127.0.0.1:9" } }, (line) =>
    console.log(line),
  );
  const peak = process.resourceUsage().maxRSS * 1024;
  console.log(`peak resident memory ${mib(peak)}, ${mib(start)} of it before the import; the bound is ${mib(residentBytesMax)}`);
  if (peak > residentBytesMax) process.exitCode = 1;
}

async function main(gigabytes: number): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), "enodia-import-"));
  try {
    const path = join(dir, "large.gguf");
    console.log(`a GGUF of ${((await sparseGguf(path, gigabytes)) / 1e9).toFixed(2)} GB in ${dir}`);
    const argv = [`--max-old-space-size=${heapMib}`, import.meta.filename, "import", path, join(dir, "store")];
    const { status } = spawnSync(process.execPath, argv, { stdio: "inherit" });
    process.exitCode = status ?? 1;
  } finally {
    rmSync(dir, { recursive: true });
  }
}

const [verb = "6", source, out] = process.argv.slice(2);
if (source !== undefined && out !== undefined) await child(source, out);
else await main(Number(verb));
