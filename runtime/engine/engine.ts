// The engine's public door for runtime/serve and test/bench: its types and the one constructor.
import { AppError } from "../../crds/common.ts";
import type { Engine, EngineOptions } from "./api.ts";

export type * from "./api.ts";

/** Opens the store, loads the dense part and starts the engine thread. Hosts no expert yet. */
export async function createEngine(options: EngineOptions): Promise<Engine> {
  const { startEngine } = await import("./client.ts");
  return startEngine(options);
}

/** The experts that a `NotHosted` error of `runExperts` names. */
export function missingExperts(error: unknown): readonly number[] {
  if (!(error instanceof AppError) || error.code !== "NotHosted") return [];
  return (error.cause as { experts?: readonly number[] } | undefined)?.experts ?? [];
}
