// Modules of others that tests read manifests and names from, as Go's module proxy serves them. None is built.
import assert from "node:assert/strict";
import { execOk } from "./process.ts";

/** With the hash by which Go knows what it holds. */
export interface GoModule {
  readonly module: string;
  readonly sum: string;
}

/** The folder of Go's module cache that has it. */
export async function moduleFolder({ module, sum }: GoModule): Promise<string> {
  const found = JSON.parse(await execOk("go", ["mod", "download", "-json", module]));
  assert.equal(found.Sum, sum, module);
  return found.Dir;
}
