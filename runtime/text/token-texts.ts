// The visible bytes of all tokens of a model folder, for constrained decoding.
import { loadShown } from "./tokenizer.ts";

/** Concatenated; token i ends at `ends[i]` and may be empty. */
export interface PackedTexts {
  readonly bytes: Uint8Array;
  readonly ends: Uint32Array;
}

/** Throws AppError `BadTokenizer` naming the file and field. */
export async function readTokenTexts(dir: string): Promise<PackedTexts> {
  const texts = await loadShown(dir);
  const ends = new Uint32Array(texts.length);
  let end = 0;
  for (const [id, text] of texts.entries()) {
    end += text?.length ?? 0;
    ends[id] = end;
  }
  const bytes = new Uint8Array(end);
  for (const [id, text] of texts.entries()) if (text) bytes.set(text, (ends[id] as number) - text.length);
  return { bytes, ends };
}
