// `enodia model inspect` of a dense folder; `verify` reads every byte and loads the tokenizer, as there are no hashes.
import { denseWeights } from "../models/family.ts";
import { llamaArchitecture, llamaProgram } from "../models/llama.ts";
import { loadTokenizer } from "../text/tokenizer.ts";
import { openCheckpoint } from "../weights/checkpoint.ts";
import { readConfig } from "../weights/store-reader.ts";
import type { Checkpoint } from "../weights/tensor-view.ts";
import { checkShape } from "./check-tensors.ts";
import type { Log } from "./companions.ts";
import { architectureIn, inFolder } from "./model-config.ts";

export interface DenseReport {
  readonly kind: "dense";
  readonly dir: string;
  readonly architecture: string;
  readonly layers: number;
  readonly hidden: number;
  readonly ffn: number;
  readonly vocabulary: number;
  readonly tensors: number;
  /** Undefined without `verify`. */
  readonly verified?: { readonly tensors: number };
}

/** True for a Hugging Face folder of a dense Llama. */
export async function isDenseFolder(dir: string): Promise<boolean> {
  const config = readConfig(dir, "ModelNotFound");
  return config.then((read) => architectureIn(dir, read) === llamaArchitecture).catch(() => false);
}

async function readAll(checkpoint: Checkpoint, log: Log): Promise<{ readonly tensors: number }> {
  const { vocab } = await loadTokenizer(checkpoint.dir);
  log(`the tokenizer serves a vocabulary of ${vocab}`);
  for (const name of checkpoint.names) await checkpoint.read(name);
  log(`${checkpoint.names.length} tensors can be read`);
  return { tensors: checkpoint.names.length };
}

export async function inspectDense(options: { readonly dir: string; readonly verify: boolean }, log: Log): Promise<DenseReport> {
  const { dir } = options;
  const config = await readConfig(dir, "ModelNotFound");
  const program = inFolder(dir, () => llamaProgram(config));
  const checkpoint = await openCheckpoint(dir);
  try {
    for (const { name, shape } of denseWeights(program)) checkShape(dir, name, checkpoint.shape(name), shape);
    const { layers, hidden, ffn, vocab } = program;
    const sizes = { layers, hidden, ffn, vocabulary: vocab, tensors: checkpoint.names.length };
    const report = { kind: "dense" as const, dir, architecture: llamaArchitecture, ...sizes };
    return options.verify ? { ...report, verified: await readAll(checkpoint, log) } : report;
  } finally {
    await checkpoint.close();
  }
}

export function formatDense(report: DenseReport): string {
  const lines = [
    `dense folder ${report.dir}`,
    `architecture ${report.architecture}`,
    `layers       ${report.layers}`,
    `dimensions   hidden ${report.hidden}, ffn ${report.ffn}, vocabulary ${report.vocabulary}`,
    `tensors      ${report.tensors}`,
    `next         enodia model upcycle ${report.dir}, or enodia model import ${report.dir} to serve it as it is`,
  ];
  if (report.verified)
    lines.push(`verified     ${report.verified.tensors} tensors can be read, the tokenizer loads; there are no hashes to compare`);
  return lines.join("\n");
}
