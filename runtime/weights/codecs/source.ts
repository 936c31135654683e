// Codec source: each matrix in its checkpoint's ggml type (../DECISIONS.md 3).
import { AppError } from "../../../crds/common.ts";
import type { UnitPart } from "./codec.ts";
import { blockCodec } from "./ggml.ts";

const refused = (what: string): AppError =>
  new AppError(`codec source keeps matrices as a checkpoint has them, and ${what}; use another --codec`, { code: "UnsupportedShape" });

export const source = blockCodec({
  name: "source",
  denseBits: 16,
  loss: 1,
  asGiven: true,
  formOf({ name, form }: UnitPart) {
    if (form === undefined) throw refused(`matrix ${name} comes in no form`);
    return form;
  },
  convert({ name, form }) {
    throw refused(`matrix ${name} is not ${form} in every expert of its layer`);
  },
});
