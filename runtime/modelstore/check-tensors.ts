// Checks before an import that a checkpoint has exactly the program's tensors, in the shapes of its config.
import { AppError } from "../../crds/common.ts";
import { embedTable, headMatrix } from "../models/decoder.ts";
import { denseWeights } from "../models/family.ts";
import { type DenseProgram, llamaArchitecture } from "../models/llama.ts";
import type { Checkpoint } from "../weights/tensor-view.ts";

/** Suffixes of tensors that no program reads: tied heads and computed tables. */
const needless = [headMatrix, "rotary_emb.inv_freq"];

export function checkShape(where: string, name: string, have: readonly number[] | undefined, want: readonly number[]): void {
  if (!have) throw new AppError(`${where}: has no tensor "${name}"; the model is incomplete`, { code: "MissingTensor" });
  if (have.length === want.length && have.every((size, i) => size === want[i])) return;
  throw new AppError(`${where}: tensor "${name}" is [${have.join(", ")}], its configuration implies [${want.join(", ")}]`, {
    code: "ShapeMismatch",
  });
}

interface Belonging {
  readonly names: readonly string[];
  readonly known: ReadonlySet<string>;
  readonly architecture: string;
}

/** Unread tensors mean that the model is not what its config says. AutoGPTQ's files have biases of zeros where the model has none. */
export async function refuseUnknown(checkpoint: Checkpoint, { names, known, architecture }: Belonging): Promise<void> {
  for (const name of names) {
    if (known.has(name) || needless.some((end) => name.endsWith(end))) continue;
    const bias = checkpoint.packed && name.endsWith(".bias") && checkpoint.shape(name)?.length === 1;
    if (bias && (await checkpoint.read(name)).every((value) => value === 0)) continue;
    throw new AppError(`${checkpoint.dir}: tensor "${name}" belongs to no part of ${architecture}, which config.json says this is`, {
      code: "UnknownArchitecture",
    });
  }
}

/** A separate head beside a tied one is ambiguous: versions of transformers differ in which they read. */
export async function checkTiedHead({ dir, names, read, shape }: Checkpoint, known: ReadonlySet<string>): Promise<void> {
  if (known.has(headMatrix) || !names.includes(headMatrix)) return;
  const [table, head] = [await read(embedTable), await read(headMatrix)];
  const columns = shape(embedTable)?.[1] ?? 1;
  const other = table.findIndex((value, i) => value !== head[i]);
  if (other < 0 && table.length === head.length) return;
  const place = other < 0 ? "in size" : `at [${Math.floor(other / columns)}, ${other % columns}]`;
  throw new AppError(
    `${dir}: tie_word_embeddings is true, but ${headMatrix} differs from ${embedTable} ${place}; set it to false in config.json to use ${headMatrix}, or remove that tensor`,
    { code: "UnsupportedModel" },
  );
}

const plainForms: ReadonlySet<string> = new Set(["f32", "f16", "bf16"]);

/** Plain tensors under a configuration of quantization are of something else than it says, such as values without their scales. */
export function refuseQuantization({ dir, names, form, packed }: Checkpoint, config: unknown): void {
  const { quantization_config: said } = config as { readonly quantization_config?: { readonly quant_method?: unknown } | null };
  if (said === undefined || said === null || packed || !names.every((name) => plainForms.has(form(name)))) return;
  const message = `quantization_config says ${said.quant_method ?? "that weights are quantized"}, but all tensors are plain; remove it if they are the model's weights as they are`;
  throw new AppError(`${dir}: config.json: ${message}`, { code: "UnsupportedModel" });
}

/** Throws unless a folder has exactly the tensors of a dense Llama. */
export async function checkDense(checkpoint: Checkpoint, config: unknown, program: DenseProgram): Promise<void> {
  const weights = denseWeights(program);
  const known = new Set(weights.map(({ name }) => name));
  for (const { name, shape } of weights) checkShape(checkpoint.dir, name, checkpoint.shape(name), shape);
  await refuseUnknown(checkpoint, { names: checkpoint.names, known, architecture: llamaArchitecture });
  refuseQuantization(checkpoint, config);
  await checkTiedHead(checkpoint, known);
}
