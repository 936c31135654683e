// The declaration of a model family: how its config.json reads, how its tensors are called, how its layers are wired.
import { z } from "zod";
import { AppError } from "../../crds/common.ts";
import type { ModelProgram, Segment } from "../kernels/segment.ts";

/** The names of the matrices of a gated FFN in a Hugging Face checkpoint. */
export interface GatedFfnTensors {
  readonly w1: string; // gate projection [ffn, hidden]
  readonly w2: string; // down projection [hidden, ffn]
  readonly w3: string; // up projection [ffn, hidden]
}

export interface ModelFamily {
  readonly name: string;
  /** Values of `architectures[0]` in config.json that this family reads. */
  readonly architectures: readonly string[];
  /** Throws AppError `InvalidModelConfig` naming the field, or `UnsupportedModel` naming the field and what is supported. */
  program(config: unknown): ModelProgram;
  /** What an expert's unit is made of in a Hugging Face checkpoint: name of the matrix or bias -> the tensor that it is. */
  expertTensors(layer: number, expert: number): Readonly<Record<string, string>>;
  /** How its checkpoints have experts that lie together in one tensor (weights/packed.ts); unset: each has tensors of its own. */
  readonly stacks?: "interleaved";
  /** The beginnings of the names of tensors that its checkpoints have and that no program reads, such as those of layers for training. */
  needless?(config: unknown): readonly string[];
}

/** The field in every Hugging Face config.json that says which family reads it. */
const architectureSchema = z.object({ architectures: z.array(z.string()).min(1) });

export function architectureOf(config: unknown): string {
  return parseConfig(architectureSchema, config).architectures[0] as string;
}

/** Parses a config.json; the error names the field and what was expected there. */
export function parseConfig<T>(schema: z.ZodType<T>, config: unknown): T {
  const parsed = schema.safeParse(config);
  if (parsed.success) return parsed.data;
  const faults = parsed.error.issues.slice(0, 5).map((issue) => `${issue.path.join(".") || "(top level)"}: ${issue.message}`);
  throw new AppError(`config.json is not usable: ${faults.join("; ")}`, {
    code: "InvalidModelConfig",
    operation: "reading config.json",
    cause: parsed.error,
  });
}

export function unsupported(field: string, found: unknown, supported: string): AppError {
  return new AppError(`config.json: ${field} is ${JSON.stringify(found)}, supported: ${supported}`, {
    code: "UnsupportedModel",
    operation: "reading config.json",
  });
}

/** The blocks of a dense model, or the layers of one with experts. */
type DenseParts = { readonly blocks: readonly Segment[] } | Pick<ModelProgram, "layers">;

/** Every tensor outside the experts that a program reads, without duplicates (tied embeddings), in program order. */
export function denseWeights(program: Pick<ModelProgram, "embed" | "head"> & DenseParts): Segment["weights"] {
  const seen = new Map<string, Segment["weights"][number]>();
  const blocks = "blocks" in program ? program.blocks : program.layers.map(({ block }) => block);
  for (const segment of [program.embed, ...blocks, program.head]) {
    for (const weight of segment.weights) if (!seen.has(weight.name)) seen.set(weight.name, weight);
  }
  return [...seen.values()];
}
