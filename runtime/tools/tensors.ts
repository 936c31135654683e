// The check of a checkpoint before it is imported: every tensor that a program reads is there, in the shape its config implies, and
// nothing else. Pure.
import { AppError } from "../../crds/common.ts";

/** Trailing parts of names that checkpoints have and no program reads: a head that is tied, tables that are computed. */
const needless = ["lm_head.weight", "rotary_emb.inv_freq"];

export function checkShape(where: string, name: string, have: readonly number[] | undefined, want: readonly number[]): void {
  if (!have) throw new AppError(`${where}: has no tensor "${name}"; the model is incomplete`, { code: "MissingTensor" });
  if (have.length === want.length && have.every((size, i) => size === want[i])) return;
  throw new AppError(`${where}: tensor "${name}" is [${have.join(", ")}], its configuration implies [${want.join(", ")}]`, {
    code: "ShapeMismatch",
  });
}

/** Tensors that nothing would read mean that the model is not what its config says. */
export function refuseUnknown(where: string, names: readonly string[], known: ReadonlySet<string>, architecture: string): void {
  const strange = names.find((name) => !known.has(name) && !needless.some((end) => name.endsWith(end)));
  if (strange === undefined) return;
  throw new AppError(`${where}: tensor "${strange}" belongs to no part of ${architecture}, which config.json says this is`, {
    code: "UnknownArchitecture",
  });
}
