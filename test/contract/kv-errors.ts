// Logits by keys and values of each number type beside those by f32, for every family: its golden config with heads as wide as they are
// published, since q8_0 stores 32 values together, and random weights. Read by the test beside it and by `npm run bench -- kv`.
import { readFileSync } from "node:fs";
import { basename, join } from "node:path";
import type { KvType } from "../../crds/names.ts";
import type { Backend } from "../../runtime/compute/backend.ts";
import { relativeError } from "../../runtime/compute/op-self-test.ts";
import { randomTensor } from "../../runtime/kernels/random.ts";
import type { WeightDecl } from "../../runtime/kernels/segment.ts";
import type { WeightData } from "../../runtime/kernels/weights.ts";
import { architectureOf } from "../../runtime/models/family.ts";
import { programOf } from "../../runtime/models/index.ts";
import { argmax } from "../kit/models/golden-files.ts";
import { loadModel, type ModelWeights } from "../kit/models/small-engine.ts";
import { seedOf } from "../kit/models/synthetic.ts";

/** Tokens of a chunk of a text. */
const chunk = 250;

/** Every head of keys and values has 128 values but for those of these architectures. */
const sizes: Readonly<Record<string, object>> = {
  OlmoeForCausalLM: { hidden_size: 512 }, // its heads share the rows evenly
  GptOssForCausalLM: { head_dim: 64 },
  DeepseekV2ForCausalLM: { qk_nope_head_dim: 128, qk_rope_head_dim: 64, v_head_dim: 128, kv_lora_rank: 64 },
  DeepseekV3ForCausalLM: { qk_nope_head_dim: 128, qk_rope_head_dim: 64, v_head_dim: 128, kv_lora_rank: 64, q_lora_rank: 64 },
};

/** Random values as make_families.py draws them. */
function weightOf({ name, shape }: WeightDecl, model: string): WeightData {
  const values = (deviation: number) => randomTensor(seedOf(`${model}.${name}`), shape, deviation).data;
  const [, columns = 1] = shape;
  const drawn = (): Float32Array => {
    if (name.includes("correction_bias")) return values(0.1);
    if (/bias|sinks|^b\d/.test(name)) return values(0.3);
    if (shape.length === 1) return values(0.2).map((value) => 1 + value);
    if (name.includes("embed")) return values(1);
    return values((/(gate|router)\.weight$/.test(name) ? 2 : 1.4) / Math.sqrt(columns));
  };
  return { form: "f32", shape, data: drawn() };
}

/** The family whose golden is in that folder. */
export function wideModel(folder: string): ModelWeights {
  const config = JSON.parse(readFileSync(join(folder, "config.json"), "utf8"));
  const own = sizes[architectureOf(config)] ?? { head_dim: 128 };
  const program = programOf({ ...config, hidden_size: 64, ...own });
  const name = basename(folder);
  const all = (weights: readonly WeightDecl[], model: string) =>
    Object.fromEntries(weights.map((declared) => [declared.name, weightOf(declared, model)]));
  return {
    program,
    weights: ({ weights }) => all(weights, name),
    expert(layer, expert) {
      const shape = program.layers[layer];
      return all(shape?.kind === "moe" ? shape.expert.weights : [], `${name}.${layer}.${expert}`);
    },
  };
}

/** What a model gives for the rows of a text that are kept. */
interface Said {
  readonly logits: readonly Float32Array[];
  /** Of each row, the experts of all layers. */
  readonly chosen: readonly string[];
}

async function read(backend: Backend, model: ModelWeights, { ids, kvType, every = 1 }: Text & { readonly kvType: KvType }): Promise<Said> {
  const loaded = await loadModel(backend, model, { context: ids.length, kvType });
  const { vocab } = model.program;
  const [logits, chosen]: [Float32Array[], string[]] = [[], []];
  for (let past = 0; past < ids.length; past += chunk) {
    const part = ids.slice(past, past + chunk);
    const all = await loaded.forward(part, past);
    for (let row = 0; row < part.length; row++) {
      if ((past + row + 1) % every !== 0) continue;
      logits.push(all.slice(row * vocab, (row + 1) * vocab));
      chosen.push(loaded.routes.map((layer) => expertsOf(layer, row, part.length)).join());
    }
  }
  await loaded.dispose();
  return { logits, chosen };
}

const expertsOf = (layer: Int32Array, row: number, rows: number): string =>
  [...layer.subarray((row * layer.length) / rows, ((row + 1) * layer.length) / rows)].sort((a, b) => a - b).join();

export interface KvErrors {
  /** max|a-b| / max|b| of a row's logits: of all rows the median and the largest, and the largest of rows with the same experts. */
  readonly median: number;
  readonly largest: number;
  readonly largestOfAlike: number;
  /** Nats from f32's distribution of the next token, on average. */
  readonly divergence: number;
  /** Shares of rows with another likeliest token, and with another expert in some layer. */
  readonly otherToken: number;
  readonly otherExpert: number;
}

export interface Text {
  readonly ids: readonly number[];
  /** Of how many rows one is compared; unset: all are. */
  readonly every?: number;
}

/** Of each type, in one run, how far logits are from those by f32. */
export async function kvErrors(backend: Backend, model: ModelWeights, text: Text, types: readonly KvType[]): Promise<readonly KvErrors[]> {
  const want = await read(backend, model, { ...text, kvType: "f32" });
  const found: KvErrors[] = [];
  for (const kvType of types) found.push(compare(await read(backend, model, { ...text, kvType }), want));
  return found;
}

function compare(got: Said, want: Said): KvErrors {
  const rows = want.logits.map((row, i) => ({ got: got.logits[i]!, want: row }));
  const each = rows.map((row) => relativeError(row.got, row.want));
  const errors = each.toSorted((a, b) => a - b);
  const alike = want.chosen.map((experts, i) => experts === got.chosen[i]);
  const share = (count: number): number => count / rows.length;
  return {
    median: errors[errors.length >> 1]!,
    largest: errors.at(-1)!,
    largestOfAlike: Math.max(...each.filter((_, i) => alike[i])),
    divergence: share(rows.reduce((sum, row) => sum + divergenceOf(row.want, row.got), 0)),
    otherToken: share(rows.filter((row) => argmax(row.got) !== argmax(row.want)).length),
    otherExpert: share(alike.filter((same) => !same).length),
  };
}

/** Kullback and Leibler's, of the softmax of the second from that of the first. */
function divergenceOf(from: Float32Array, to: Float32Array): number {
  const logSum = (row: Float32Array): number => {
    const max = row.reduce((most, value) => Math.max(most, value));
    return max + Math.log(row.reduce((sum, value) => sum + Math.exp(value - max), 0));
  };
  const [a, b] = [logSum(from), logSum(to)];
  return from.reduce((sum, value, i) => sum + Math.exp(value - a) * (value - a - (to[i]! - b)), 0);
}
