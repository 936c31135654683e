// Presents packed safetensors (fp8 blocks, MXFP4, stacked experts) as plain matrices; other tensors are read as they are.
import { AppError } from "../../crds/common.ts";
import type { ModelFamily } from "../models/family.ts";
import { fp8Blocks } from "./packed-fp8.ts";
import { interleavedExperts, interleaveExperts } from "./packed-interleaved.ts";
import { mxfp4Experts } from "./packed-mxfp4.ts";
import { isPlain, type RawTensor, type Rule } from "./packed-rule.ts";
import { stackedExperts } from "./packed-stacks.ts";
import type { TensorToWrite } from "./safetensors-writer.ts";
import type { TensorView } from "./tensor-view.ts";

export type { RawTensor };

/** Stacks name many tensors in a few bytes. The largest known models have 100,000. */
const viewsMax = 1_000_000;

/** The first matching rule takes a tensor. */
const rules: readonly Rule[] = [fp8Blocks, mxfp4Experts, interleavedExperts, stackedExperts];

type Stacks = NonNullable<ModelFamily["stacks"]>;
const stackers: Readonly<Record<Stacks, (tensors: readonly TensorToWrite[]) => readonly TensorToWrite[]>> = {
  interleaved: interleaveExperts,
};

/** Packs f32 tensors as the family's checkpoints do. */
export function packed(tensors: readonly TensorToWrite[], { stacks }: ModelFamily): readonly TensorToWrite[] {
  return stacks === undefined ? tensors : stackers[stacks](tensors);
}

/** Throws `UnsupportedDtype` for parts that no rule takes. */
export function unpacked(raw: ReadonlyMap<string, RawTensor>): ReadonlyMap<string, TensorView> {
  const views = new Map<string, TensorView>();
  const taken = new Set<string>();
  for (const rule of rules)
    for (const name of raw.keys()) {
      const found = taken.has(name) ? undefined : rule(name, raw);
      if (!found) continue;
      for (const part of found.takes) taken.add(part);
      for (const [as, view] of found.views) add(raw, views, as, view);
    }
  for (const [name, tensor] of raw) {
    if (taken.has(name)) continue;
    if (!isPlain(tensor.info)) {
      throw new AppError(
        `${tensor.path}: tensor "${name}" has dtype ${tensor.info.dtype} and no scales that are known beside it; supported are F32, F16, BF16, F8_E4M3 with "${name}_scale_inv" of 128 x 128 blocks, and MXFP4 blocks with scales`,
        { code: "UnsupportedDtype" },
      );
    }
    add(raw, views, name, tensor.view());
  }
  return views;
}

function add(raw: ReadonlyMap<string, RawTensor>, views: Map<string, TensorView>, name: string, view: TensorView): void {
  if (views.size >= viewsMax)
    throw new AppError(`${[...raw.values()][0]?.path}: has more than ${viewsMax} matrices`, { code: "BadSafetensors" });
  if (views.has(name))
    throw new AppError(`${[...raw.values()][0]?.path}: has tensor "${name}" twice, packed and plain`, { code: "BadSafetensors" });
  views.set(name, view);
}
