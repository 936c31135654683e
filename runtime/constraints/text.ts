// The constraints `regex` and `choice`: a text alone that matches an expression, or is one of a list.
import { z } from "zod";
import { AppError } from "../../crds/common.ts";
import type { Language, Reach } from "./language.ts";
import { textsOfPattern } from "./schema/pattern.ts";
import { stringAlike, stringStart, textStep } from "./schema/string-bytes.ts";
import { TextList, type Texts } from "./schema/texts.ts";

const specBytesMax = 65_536;
const choicesSchema = z
  .array(
    z
      .string()
      .min(1)
      .refine((text) => !/\p{Surrogate}/u.test(text)),
  )
  .min(1)
  .max(1_000);

const refused = (message: string): AppError => new AppError(message, { code: "InvalidRequest" });

/** The whole text matches. Throws AppError `InvalidRequest`. */
export function regex(expression: string): Language {
  if (expression.length > specBytesMax)
    throw refused(`the expression has ${expression.length} characters, at most ${specBytesMax} are taken`);
  return languageOfTexts(textsOfPattern(expression, 0, Number.POSITIVE_INFINITY, true));
}

/** `spec`: a JSON list of texts. Throws AppError `InvalidRequest`. */
export function choice(spec: string): Language {
  if (spec.length > specBytesMax) throw refused(`the choices have ${spec.length} characters, at most ${specBytesMax} are taken`);
  const list = choicesSchema.safeParse(JSON.parse(spec));
  if (!list.success) throw refused("must be 1 to 1000 texts, none of them empty or with half a character");
  return languageOfTexts(new TextList(list.data));
}

function languageOfTexts(texts: Texts): Language {
  return {
    start: stringStart(texts),
    step: (state, byte) => textStep(texts, state, byte),
    alike: (state, { bytes }: Reach) => stringAlike(texts, state, { bytes, ends: false }), // no byte of the text ends it
    ends: (state) => state.startsWith(";") && texts.ends(state.slice(1)),
  };
}
