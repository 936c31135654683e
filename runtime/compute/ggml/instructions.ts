// Which builds of ggml's CPU library give the same bits, as measured on one processor for every weight type, attention and activations.
// Pure.
import type { WeightForm } from "../../kernels/weights.ts";
import { liesInTiles } from "./types.ts";

const sets: Readonly<Record<string, readonly string[]>> = {
  avx512: ["skylakex", "cannonlake", "cascadelake", "icelake", "cooperlake", "zen4", "sapphirerapids"],
  avx2: ["haswell", "alderlake"],
  avx: ["sandybridge", "ivybridge"],
};
/** Their bf16 instructions round differently from widening. */
const withBf16: ReadonlySet<string> = new Set(["cooperlake", "zen4", "sapphirerapids"]);

/** The builds that compute the same bits for this form; an unmeasured build stands alone. `amx`: quantized matrices lie in tiles. */
export function instructionsOf(build: string, form: WeightForm, amx = false): string {
  const found = Object.entries(sets).find(([, builds]) => builds.includes(build))?.[0] ?? build;
  if (form === "bf16" && withBf16.has(build)) return `${found}-bf16`;
  return amx && liesInTiles(form) ? `${found}-amx` : found;
}
