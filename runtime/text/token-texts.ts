// The texts of all tokens of a model folder as bytes, as the decoder shows them: for an engine that holds answers to a language. Not
// here: text to ids (tokenizer.ts).
import { loadShown } from "./tokenizer.ts";

/** One behind the other; that of token i ends at `ends[i]`, and is empty for one that shows as nothing. */
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
