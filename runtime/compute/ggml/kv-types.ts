// How a device stores keys and values of each type.
import type { KvType } from "../../../crds/names.ts";
import { kvTypes } from "../../../crds/names.ts";
import type { KvSpec } from "../backend.ts";
import { kvTypeRefuses } from "../kv-size.ts";
import type { GgmlDevice } from "./device.ts";
import { numberOf, type WeightType } from "./types.ts";

interface Stored {
  readonly keys: WeightType;
  readonly values: WeightType;
}
type Heads = Pick<KvSpec, "kvHeads" | "headDim" | "valueDim">;

const pairs: Readonly<Record<KvType, readonly Stored[]>> = {
  f32: [{ keys: "f32", values: "f32" }],
  f16: [
    { keys: "f16", values: "bf16" },
    { keys: "f16", values: "f16" },
  ],
  q8_0: [{ keys: "q8_0", values: "q8_0" }],
};

/** Blocks of one name are alike, whichever device has stored them. */
export const storedName = (type: KvType, { values }: Stored): string =>
  values === pairs[type][0]?.values ? type : `${type} with ${values} values`;

/** Every known model's heads have this size or one with equal support. */
const commonHeads: Heads = { kvHeads: 1, headDim: 128, valueDim: 128 };
/** Products read plain numbers; other types are widened first. */
const plain: ReadonlySet<WeightType> = new Set(["f32", "f16"]);
/** Attention to f16 takes the processor 1 to 2 times as long as to f32 where three heads share keys, else 2.0 to 2.8 (../DECISIONS.md 10). */
const order = { exact: kvTypes, other: ["f16", "q8_0", "f32"] } as const satisfies Readonly<Record<string, readonly KvType[]>>;

/** The supported types, the fastest first. */
export const kvTypesOf = (device: GgmlDevice): readonly KvType[] =>
  device.exact ? order.exact : order.other.filter((type) => storedAs(device, type, commonHeads) !== undefined);

/** The first pair with one attention operation, else the first that products can read; undefined if there is none. */
export function storedAs(device: GgmlDevice, type: KvType, heads: Heads): Stored | undefined {
  if (kvTypeRefuses(type, heads) !== undefined) return undefined;
  const candidates = pairs[type];
  if (device.exact) return candidates[0];
  const written = candidates.filter(({ keys, values }) => [keys, values].every((each) => writes(device, each)));
  const byProducts = ({ keys, values }: Stored): boolean => plain.has(keys) && plain.has(values);
  return written.find((each) => attends(device, each, heads)) ?? written.find(byProducts);
}

/** True where attention is one operation with the type that such heads have by themselves. */
export function attendsAtOnce(device: GgmlDevice, heads: Heads): boolean {
  const [stored] = kvTypesOf(device).flatMap((type) => storedAs(device, type, heads) ?? []);
  return stored !== undefined && attends(device, stored, heads);
}

function writes(device: GgmlDevice, type: WeightType): boolean {
  return asked(device, (context) => {
    const { ggml } = device;
    const cache = ggml.ggml_new_tensor_4d(context, numberOf(type), 128, 64, 1, 1);
    const rows = ggml.ggml_new_tensor_4d(context, numberOf("f32"), 128, 2, 1, 1);
    const places = ggml.ggml_new_tensor_4d(context, numberOf("i64"), 2, 1, 1, 1);
    return ggml.ggml_set_rows(context, cache, rows, places);
  });
}

function attends(device: GgmlDevice, { keys, values }: Stored, { headDim, valueDim }: Heads): boolean {
  if (device.software) return false; // attention.ts says why
  return asked(device, (context) => {
    const { ggml } = device;
    const of = (type: Parameters<typeof numberOf>[0], width: number, rows: number) =>
      ggml.ggml_new_tensor_4d(context, numberOf(type), width, rows, 1, 1);
    const mask = ggml.ggml_new_tensor_4d(context, numberOf("f16"), 256, 1, 1, 1);
    return ggml.ggml_flash_attn_ext(context, of("f32", headDim, 1), of(keys, headDim, 256), of(values, valueDim, 256), mask, 1, 0, 0);
  });
}

const nodesMax = 8;

function asked(device: GgmlDevice, node: (context: bigint) => bigint): boolean {
  const metadata = device.metadata(nodesMax);
  try {
    return device.supports(node(metadata.context));
  } finally {
    metadata.free();
  }
}
