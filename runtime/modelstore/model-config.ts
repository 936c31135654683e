// Reads a folder's config.json by the families of runtime/models; errors name the folder.
import { AppError } from "../../crds/common.ts";
import { architectureOf } from "../models/family.ts";
import { llamaArchitecture } from "../models/llama.ts";

/** Prefixes errors of `read` with `where`, unless they begin with it. */
export function inFolder<T>(where: string, read: () => T): T {
  try {
    return read();
  } catch (caught) {
    const { message, code, cause } = AppError.from(caught);
    throw new AppError(message.startsWith(`${where}: `) ? message : `${where}: ${message}`, { code, cause });
  }
}

/** `done`: what would be done with a dense Llama. */
export function noDense(where: string, architecture: string, done: string): AppError {
  return new AppError(`${where}: is ${architecture}; only ${llamaArchitecture} can be ${done}`, { code: "UnknownArchitecture" });
}

export const architectureIn = (where: string, config: unknown): string => inFolder(where, () => architectureOf(config));

/** What is written is in a form of ours, whatever the source was in. */
export function unquantized(config: unknown): Readonly<Record<string, unknown>> {
  const { quantization_config: _quantized, ...rest } = config as Readonly<Record<string, unknown>>;
  return rest;
}
