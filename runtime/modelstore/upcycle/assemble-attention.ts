// How `enodia model assemble` joins branches' attention: their mean, or experts of attention.
import { bamArchitecture, bamConfig } from "../../models/bam.ts";
import type { DecoderDims } from "../../models/decoder.ts";
import { mixtralArchitecture, mixtralConfig } from "../../models/mixtral.ts";

export interface AttentionForm {
  readonly architecture: string;
  config(
    raw: Readonly<Record<string, unknown>>,
    dims: DecoderDims,
    counts: { readonly experts: number; readonly topK: number },
  ): Record<string, unknown>;
  /** Number of pieces that a tensor takes in turn from each branch; undefined for a mean. */
  pieces(tensor: string, dims: DecoderDims): number | undefined;
}

const mean: AttentionForm = { architecture: mixtralArchitecture, config: mixtralConfig, pieces: () => undefined };

/** A piece is a branch's part of one key head; each row of the output projection has one piece per head. */
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

/** Keys are values of `--attention`. */
export const attentionForms: ReadonlyMap<string, AttentionForm> = new Map([
  ["mean", mean],
  ["experts", experts(false)],
  ["shared-kv", experts(true)],
]);
