// The registry of unit codecs.
import type { CodecName } from "../../../crds/names.ts";
import { bf16 } from "./bf16.ts";
import type { UnitCodec } from "./codec.ts";
import { f16 } from "./f16.ts";
import { f32 } from "./f32.ts";
import { iq4_nl } from "./iq4_nl.ts";
import { mxfp4 } from "./mxfp4.ts";
import { q4_0 } from "./q4_0.ts";
import { q8_0 } from "./q8_0.ts";
import { source } from "./source.ts";

const codecs = { q4_0, iq4_nl, f32, f16, bf16, q8_0, mxfp4, source } as const satisfies Readonly<Record<CodecName, UnitCodec>>;

export function codecFor(name: CodecName): UnitCodec {
  return codecs[name];
}
