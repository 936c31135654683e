// An engine of a model store with its experts resident, for tests that ask it for text.
import { createEngine, type Engine, type EngineOptions } from "../../../runtime/engine/engine.ts";
import type { ModelStore } from "../../../runtime/weights/store.ts";

/** `hosts`: the experts that are loaded; unset: all of them. */
export async function loadedEngine(
  store: ModelStore,
  options: EngineOptions,
  hosts = (_layer: number, _expert: number) => true,
): Promise<Engine> {
  const engine = await createEngine(options);
  const { layers, experts, codec } = engine.describe();
  for (let layer = 0; layer < layers; layer++) {
    for (let expert = 0; expert < experts; expert++) {
      if (hosts(layer, expert)) await engine.loadExpert(layer, expert, await store.readUnit(layer, expert, codec));
    }
  }
  return engine;
}
