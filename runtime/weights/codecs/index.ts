// The registry of unit codecs: the only place that lists them. Pure.
import type { CodecName } from "../../../crds/names.ts";
import type { UnitCodec } from "./codec.ts";
import { f32 } from "./f32.ts";
import { int4 } from "./int4.ts";

const codecs = { f32, int4 } as const satisfies Readonly<Record<CodecName, UnitCodec>>;

export function codecFor(name: CodecName): UnitCodec {
  return codecs[name];
}
