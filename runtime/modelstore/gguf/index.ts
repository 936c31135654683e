// The importable GGUF architectures, by `general.architecture`. A new one is a file and a line here.
import { AppError } from "../../../crds/common.ts";
import type { GgufFile } from "../../weights/gguf.ts";
import { inFolder } from "../model-config.ts";
import { decoderConfig, type GgufArchitecture } from "./architecture.ts";
import { deepseek2 } from "./deepseek2.ts";
import { gptOss } from "./gpt-oss.ts";
import { llama } from "./llama.ts";
import { ModelMetadata } from "./metadata.ts";
import { olmoe } from "./olmoe.ts";
import { qwen3moe } from "./qwen3moe.ts";

const architectures: Readonly<Record<string, GgufArchitecture>> = { llama, olmoe, qwen3moe, deepseek2, "gpt-oss": gptOss };

export interface GgufModel {
  readonly architecture: GgufArchitecture;
  readonly metadata: ModelMetadata;
  /** Equals the model's config.json on Hugging Face. */
  readonly config: Readonly<Record<string, unknown>>;
}

/** `tokens`: vocabulary size for files without an embedding table. */
export function ggufModel(file: Pick<GgufFile, "path" | "metadata" | "names" | "shape">, tokens: number): GgufModel {
  return inFolder(file.path, () => {
    const metadata = new ModelMetadata(file.metadata, file.path);
    const known = Object.hasOwn(architectures, metadata.architecture);
    const architecture = known ? architectures[metadata.architecture] : undefined;
    if (!architecture) {
      throw new AppError(
        `GGUF architecture "${metadata.architecture}" is not supported; supported are ${Object.keys(architectures).join(", ")}`,
        { code: "UnknownArchitecture" },
      );
    }
    const facts = { tied: !file.names.includes("output.weight"), vocab: file.shape("token_embd.weight")?.[0] ?? tokens };
    const config = { ...decoderConfig(metadata, facts, architecture), ...architecture.config(metadata) };
    return { architecture, metadata, config };
  });
}
