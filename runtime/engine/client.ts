// The engine as the main thread sees it: a proxy over the MessagePort of engine/thread.ts.
import { AppError } from "../../crds/common.ts";
import type { Engine, EngineOptions } from "./api.ts";

export async function startEngine(options: EngineOptions): Promise<Engine> {
  throw new AppError(`engine for ${options.storeDir} is being built`, { code: "Internal" });
}
