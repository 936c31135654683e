// The engine's public interface: its types and the one constructor.
import type { Engine, EngineOptions } from "./api.ts";

export type * from "./api.ts";

/** Opens the store, loads the dense part and starts the engine thread. It hosts no expert yet. */
export async function createEngine(options: EngineOptions): Promise<Engine> {
  const { startEngine } = await import("./thread/client.ts");
  return startEngine(options);
}
