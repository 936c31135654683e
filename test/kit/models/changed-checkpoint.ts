// A copy of a checkpoint below test/golden with other tensors or another config, for tests of what import and inspect refuse.
import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { openCheckpoint } from "../../../runtime/weights/checkpoint.ts";
import { bytesOf } from "../../../runtime/weights/floats.ts";
import { writeSafetensors } from "../../../runtime/weights/safetensors-writer.ts";

export type Tensors = Map<string, { shape: readonly number[]; data: Float32Array }>;

/** Copies `from` to a new folder in `root`, with what `change` leaves of its tensors as the one weight file, all f32. */
export async function changedCheckpoint(
  from: string,
  root: string,
  change: (tensors: Tensors, config: Record<string, unknown>) => void,
): Promise<string> {
  const copy = await mkdtemp(join(root, "hf-"));
  await cp(from, copy, { recursive: true });
  const source = await openCheckpoint(from);
  const tensors: Tensors = new Map();
  for (const name of source.names) tensors.set(name, { shape: source.shape(name) ?? [], data: (await source.read(name)).slice() });
  await source.close();
  const config = JSON.parse(await readFile(join(copy, "config.json"), "utf8"));
  change(tensors, config);
  await writeFile(join(copy, "config.json"), JSON.stringify(config));
  await rm(join(copy, "model.safetensors"));
  await writeSafetensors(
    join(copy, "model.safetensors"),
    [...tensors].map(([name, { shape, data }]) => ({ name, dtype: "F32" as const, shape, read: async () => bytesOf(data) })),
  );
  return copy;
}
