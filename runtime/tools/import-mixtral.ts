// A Mixtral folder (HF layout, safetensors) to a model store: experts become units, everything else is copied as stored.
import { join } from "node:path";
import { AppError } from "../../crds/common.ts";
import { type Checkpoint, openCheckpoint } from "../weights/checkpoint.ts";
import type { ExpertMatrices } from "../weights/codecs/codec.ts";
import type { TensorToWrite } from "../weights/safetensors-writer.ts";
import type { CodecName, ExpertIndex } from "../weights/store.ts";
import { readJson } from "../weights/store-reader.ts";
import { writeStore } from "../weights/store-writer.ts";
import { type MixtralConfig, moeArchitecture, parseMixtralConfig, ropeTheta } from "./config.ts";
import { companionFiles, type Log } from "./files.ts";

const defaultMixtralTheta = 1e6; // the family's default when config.json leaves it out
const expertTensor = /^model\.layers\.(\d+)\.block_sparse_moe\.experts\.(\d+)\.(w[123])\.weight$/;

export interface ImportMixtral {
  readonly from: string;
  readonly out: string;
  readonly codecs: readonly CodecName[];
  readonly overwrite: boolean;
}

/** Dense tensors of a Mixtral layout and the shapes they must have. Pure. */
export function denseShapes(config: MixtralConfig): ReadonlyMap<string, readonly number[]> {
  const { hidden_size: hidden, num_attention_heads: heads, vocab_size: vocab } = config;
  const headDim = config.head_dim ?? hidden / heads;
  const kv = (config.num_key_value_heads ?? heads) * headDim;
  const shapes = new Map<string, readonly number[]>([["model.embed_tokens.weight", [vocab, hidden]]]);
  for (let layer = 0; layer < config.num_hidden_layers; layer++) {
    const prefix = `model.layers.${layer}`;
    shapes.set(`${prefix}.input_layernorm.weight`, [hidden]);
    shapes.set(`${prefix}.self_attn.q_proj.weight`, [heads * headDim, hidden]);
    shapes.set(`${prefix}.self_attn.k_proj.weight`, [kv, hidden]);
    shapes.set(`${prefix}.self_attn.v_proj.weight`, [kv, hidden]);
    shapes.set(`${prefix}.self_attn.o_proj.weight`, [hidden, heads * headDim]);
    shapes.set(`${prefix}.post_attention_layernorm.weight`, [hidden]);
    shapes.set(`${prefix}.block_sparse_moe.gate.weight`, [config.num_local_experts, hidden]);
  }
  shapes.set("model.norm.weight", [hidden]);
  if (!config.tie_word_embeddings) shapes.set("lm_head.weight", [vocab, hidden]);
  return shapes;
}

function checkShape(checkpoint: Checkpoint, name: string, want: readonly number[]): void {
  const have = checkpoint.shape(name);
  if (!have) throw new AppError(`${checkpoint.dir}: has no tensor "${name}"; the checkpoint is incomplete`, { code: "MissingTensor" });
  if (have.length !== want.length || have.some((size, i) => size !== want[i])) {
    throw new AppError(`${checkpoint.dir}: tensor "${name}" is [${have.join(", ")}], config.json implies [${want.join(", ")}]`, {
      code: "ShapeMismatch",
    });
  }
}

function expertReader(checkpoint: Checkpoint, config: MixtralConfig): (layer: number, expert: number) => Promise<ExpertMatrices> {
  const { hidden_size: hidden, intermediate_size: ffn } = config;
  const shapes = { w1: [ffn, hidden], w2: [hidden, ffn], w3: [ffn, hidden] } as const;
  return async (layer, expert) => {
    const read = async (matrix: keyof typeof shapes) => {
      const name = `model.layers.${layer}.block_sparse_moe.experts.${expert}.${matrix}.weight`;
      checkShape(checkpoint, name, shapes[matrix]);
      return checkpoint.read(name);
    };
    return { w1: await read("w1"), w2: await read("w2"), w3: await read("w3") };
  };
}

function denseTensors(checkpoint: Checkpoint, config: MixtralConfig): readonly TensorToWrite[] {
  return [...denseShapes(config)].map(([name, shape]) => {
    checkShape(checkpoint, name, shape);
    const dtype = checkpoint.info(name)?.dtype ?? "F32";
    return { name, dtype, shape, read: () => checkpoint.readRaw(name) };
  });
}

/** Tensors that nothing would read mean that the model is not what its config says. */
function refuseUnknown(checkpoint: Checkpoint, config: MixtralConfig): void {
  const known = denseShapes(config);
  const strange = checkpoint.names.find((name) => !known.has(name) && !expertTensor.test(name) && name !== "lm_head.weight");
  if (strange) {
    throw new AppError(
      `${checkpoint.dir}: tensor "${strange}" belongs to no part of ${moeArchitecture}; its architecture is not supported`,
      {
        code: "UnknownArchitecture",
      },
    );
  }
}

export async function importMixtral(options: ImportMixtral, log: Log): Promise<ExpertIndex> {
  const raw = (await readJson(join(options.from, "config.json"), "BadModelConfig")) as Readonly<Record<string, unknown>>;
  const config = parseMixtralConfig(raw, options.from);
  const checkpoint = await openCheckpoint(options.from);
  try {
    refuseUnknown(checkpoint, config);
    const layers = config.num_hidden_layers;
    log(`importing ${moeArchitecture}: ${layers} layers of ${config.num_local_experts} experts, codecs ${options.codecs.join(", ")}`);
    const step = Math.max(1, Math.floor(layers / 10)) * config.num_local_experts;
    return await writeStore(
      options.out,
      {
        config: { ...raw, rope_theta: ropeTheta(config, defaultMixtralTheta) },
        architecture: moeArchitecture,
        layers,
        experts: config.num_local_experts,
        topK: config.num_experts_per_tok,
        hidden: config.hidden_size,
        ffn: config.intermediate_size,
        codecs: options.codecs,
        dense: denseTensors(checkpoint, config),
        expert: expertReader(checkpoint, config),
        files: await companionFiles(options.from),
      },
      {
        overwrite: options.overwrite,
        onProgress: ({ units, of, bytes }) => {
          if (units % step === 0) log(`experts ${units}/${of}, ${(bytes / 1e6).toFixed(0)} MB written`);
        },
      },
    );
  } finally {
    await checkpoint.close();
  }
}
