// Trains several worlds in this process, each over its own data as one rank. The first writes the result.
import { join } from "node:path";
import { AppError } from "../../../crds/common.ts";
import { Loopback } from "../../net/collectives/loopback.ts";
import { type RunEnd, train } from "../loop/run.ts";
import type { TrainPorts } from "../loop/train-ports.ts";
import type { TrainSettings } from "../loop/train-settings.ts";
import { contextInWorld } from "./group.ts";

const worldsMax = 64;

/** Checkpoints and metrics go to the world's own folder, the result to the run's. */
export function worldSettings(settings: TrainSettings, world: number, data: string): TrainSettings {
  const out = join(settings.out, `world-${world}`);
  const { optimizerMemory: memory } = settings;
  return { ...settings, data, out, result: settings.out, optimizerMemory: memory && { bytes: memory.bytes, folder: out } };
}

/** All worlds end with the first error. Throws what runs throw, and AppError `BadOption` for an invalid number of worlds. */
export async function trainWorlds(
  settings: TrainSettings,
  data: readonly string[],
  portsOf: (world: number) => TrainPorts,
): Promise<RunEnd> {
  const worlds = data.length;
  if (worlds < 2 || worlds > worldsMax)
    throw new AppError(`--local has ${worlds} --data; give one for each of 2 to ${worldsMax} worlds`, {
      code: "BadOption",
      operation: "starting a run",
    });
  const hub = new Loopback(worlds);
  const all = data.map((_, world) => world);
  const facts = { node: all.map(() => 0), speed: all.map(() => 1) };
  let failed: { readonly error: unknown } | undefined;
  const ends = all.map(async (world) => {
    const context = contextInWorld({ transport: hub.transport(world), world: 1, facts }, worlds, worlds);
    try {
      return await train(worldSettings(settings, world, data[world] as string), portsOf(world), context);
    } catch (caught) {
      failed ??= { error: caught };
      hub.end(caught);
      return undefined;
    }
  });
  const [first] = await Promise.all(ends);
  if (failed !== undefined) throw (failed as { readonly error: unknown }).error;
  return first as RunEnd;
}
