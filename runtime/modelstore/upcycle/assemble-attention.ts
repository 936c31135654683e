// How `enodia model assemble` joins the attention of branches: their mean, or experts of attention. A new kind is a line in the table.
// Pure.
import { bamArchitecture, bamConfig } from "../../models/bam.ts";
import type { DecoderDims } from "../../models/decoder.ts";
import { mixtralArchitecture, mixtralConfig } from "../../models/mixtral.ts";

export interface AttentionForm {
  /** Of the model that is written. */
  readonly architecture: string;
  config(
    raw: Readonly<Record<string, unknown>>,
    dims: DecoderDims,
    counts: { readonly experts: number; readonly topK: number },
  ): Record<string, unknown>;
  /** A tensor is so many pieces of each branch, the first of all branches first; undefined where it is their mean. */
  pieces(tensor: string, dims: DecoderDims): number | undefined;
}

const mean: AttentionForm = { architecture: mixtralArchitecture, config: mixtralConfig, pieces: () => undefined };

/** A piece is what a branch has at one head of keys; a row of the last product's matrix has a piece at each. */
function experts(shareKeyValues: boolean): AttentionForm {
  return {
    architecture: bamArchitecture,
    config: (raw, dims, counts) => bamConfig(raw, dims, { ...counts, shareKeyValues }),
    pieces(tensor, { kvHeads, hidden }) {
      const keys = shareKeyValues ? undefined : kvHeads;
      const of = { q: kvHeads, k: keys, v: keys, o: hidden * kvHeads };
      const projection = /\.self_attn\.([qkvo])_proj\.weight$/.exec(tensor)?.[1];
      return projection === undefined ? undefined : of[projection as keyof typeof of];
    },
  };
}

/** By the name that `--attention` takes. */
export const attentionForms: ReadonlyMap<string, AttentionForm> = new Map([
  ["mean", mean],
  ["experts", experts(false)],
  ["shared-kv", experts(true)],
]);
