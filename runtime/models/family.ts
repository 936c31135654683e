// The declaration of a model family: its config.json, its tensor names, its layers.
import { z } from "zod";
import { AppError } from "../../crds/common.ts";
import type { ModelProgram, Segment } from "../kernels/segment.ts";

export interface GatedFfnTensors {
  readonly w1: string; // gate projection [ffn, hidden]
  readonly w2: string; // down projection [hidden, ffn]
  readonly w3: string; // up projection [ffn, hidden]
}

export interface ModelFamily {
  readonly name: string;
  readonly architectures: readonly string[];
  /** Throws AppError `InvalidModelConfig`, which names the field, or `UnsupportedModel`, which also names what is supported. */
  program(config: unknown): ModelProgram;
  /** The tensors of an expert in a Hugging Face checkpoint, by matrix or bias. */
  expertTensors(layer: number, expert: number): Readonly<Record<string, string>>;
  /** How checkpoints pack all experts into one tensor (weights/packed-experts.ts); unset: they do not. */
  readonly stacks?: "interleaved";
  /** config.json of the dense Llama that one expert alone makes of it; unset: there is none. */
  averaged?(config: Readonly<Record<string, unknown>>): Record<string, unknown>;
  /** Prefixes of tensors in its checkpoints that no program reads, such as training-only layers. */
  needless?(config: unknown): readonly string[];
}

const architectureSchema = z.object({ architectures: z.array(z.string()).min(1) });

export function architectureOf(config: unknown): string {
  return parseConfig(architectureSchema, config).architectures[0] as string;
}

/** The error names the field and the expected value. */
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

type DenseParts = { readonly blocks: readonly Segment[] } | Pick<ModelProgram, "layers">;

/** Every tensor outside the experts that a program reads, once (tied embeddings), in program order. */
export function denseWeights(program: Pick<ModelProgram, "embed" | "head"> & DenseParts): Segment["weights"] {
  const seen = new Map<string, Segment["weights"][number]>();
  const blocks = "blocks" in program ? program.blocks : program.layers.map(({ block }) => block);
  for (const segment of [program.embed, ...blocks, program.head]) {
    for (const weight of segment.weights) if (!seen.has(weight.name)) seen.set(weight.name, weight);
  }
  return [...seen.values()];
}
