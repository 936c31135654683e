// The builds of ggml's CPU library that give the same bits: sums in f32 depend on the instructions that a build adds with. Measured on one
// processor with all builds, every type of weight, attention and activations. Pure.
import type { WeightForm } from "../../kernels/weights.ts";
import { liesInTiles } from "./types.ts";

const sets: Readonly<Record<string, readonly string[]>> = {
  avx512: ["skylakex", "cannonlake", "cascadelake", "icelake", "cooperlake", "zen4", "sapphirerapids"],
  avx2: ["haswell", "alderlake"],
  avx: ["sandybridge", "ivybridge"],
};
/** These multiply bf16 by instructions for it, which round in other places than widening does. */
const withBf16: ReadonlySet<string> = new Set(["cooperlake", "zen4", "sapphirerapids"]);

/** The name of the builds that compute the same bits as this one on weights of this form; a build that was not measured is alone. `amx`:
 *  the processor multiplies tiles, and quantized matrices lie in memory for that. */
export function instructionsOf(build: string, form: WeightForm, amx = false): string {
  const found = Object.entries(sets).find(([, builds]) => builds.includes(build))?.[0] ?? build;
  if (form === "bf16" && withBf16.has(build)) return `${found}-bf16`;
  return amx && liesInTiles(form) ? `${found}-amx` : found;
}
