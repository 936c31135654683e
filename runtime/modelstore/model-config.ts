// A folder's config.json as the tools read it: by the families of runtime/models, every error with the folder's name. Pure.
import { AppError } from "../../crds/common.ts";
import { architectureOf } from "../models/family.ts";
import { llamaArchitecture } from "../models/llama.ts";

/** Runs `read`, which knows little of files, and puts `where` before the message of what it throws unless it stands there. */
export function inFolder<T>(where: string, read: () => T): T {
  try {
    return read();
  } catch (caught) {
    const { message, code, cause } = AppError.from(caught);
    throw new AppError(message.startsWith(`${where}: `) ? message : `${where}: ${message}`, { code, cause });
  }
}

/** The error of a model that cannot be upcycled. */
export function noDense(where: string, architecture: string): AppError {
  return new AppError(`${where}: is ${architecture}; only ${llamaArchitecture} can be upcycled`, { code: "UnknownArchitecture" });
}

export const architectureIn = (where: string, config: unknown): string => inFolder(where, () => architectureOf(config));
