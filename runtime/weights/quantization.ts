// How a GPTQ or AWQ checkpoint was quantized: by its config.json, or by the older file of its writer beside it.
import { join } from "node:path";
import { z } from "zod";
import { AppError } from "../../crds/common.ts";
import { statIfThere } from "./file.ts";
import { readConfig, readJson } from "./store-reader.ts";

export interface Quantization {
  readonly method: keyof typeof methods;
  readonly bits: number;
  /** Inputs that share a scale; -1: all. */
  readonly groupSize: number;
  /** Groups are of inputs in another order, that of `g_idx`. */
  readonly descAct: boolean;
  readonly format: string;
}

const groupSizeMax = 2 ** 20;
/** GPTQ's and AWQ's files beside a config.json that says nothing, with the names of today. */
const olderFiles: Readonly<Record<string, (json: object) => object>> = {
  "quantize_config.json": (json) => json,
  "quant_config.json": (json) => {
    const { w_bit: bits, q_group_size: group_size, ...rest } = json as Readonly<Record<string, unknown>>;
    return { quant_method: "awq", bits, group_size, ...rest };
  },
};
const name = z.string().toLowerCase().nullish();
const schema = z.looseObject({
  quant_method: z.string().toLowerCase().default("gptq"), // GPTQ's older file says none
  bits: z.number().int(),
  group_size: z
    .number()
    .int()
    .min(-1)
    .max(groupSizeMax)
    .refine((size) => size !== 0, "is 0"),
  desc_act: z.boolean().nullish(),
  checkpoint_format: name,
  format: name,
  version: name,
  is_marlin_format: z.boolean().nullish(),
  /** Settings by patterns of modules; "-:" before one says that it is not quantized. */
  dynamic: z.record(z.string(), z.unknown()).nullish(),
});
type Said = z.infer<typeof schema>;

interface Method {
  readonly bits: readonly number[];
  readonly formats: readonly string[];
  /** The field that says the format, and what it says. */
  format(said: Said): readonly [field: string, value: string];
}

const checkpointFormat = (said: Said): string | undefined => said.checkpoint_format ?? said.format ?? undefined;

const methods = {
  gptq: {
    bits: [4, 8],
    formats: ["gptq", "gptq_v2"],
    format: (said) => ["checkpoint_format", said.is_marlin_format ? "marlin" : (checkpointFormat(said) ?? "gptq")],
  },
  awq: { bits: [4], formats: ["gemm"], format: (said) => ["version", said.version ?? checkpointFormat(said) ?? "gemm"] },
} satisfies Readonly<Record<string, Method>>;

const isMethod = (said: string): said is keyof typeof methods => Object.hasOwn(methods, said);

function parsed(path: string, json: unknown): Quantization {
  const read = schema.safeParse(json);
  if (!read.success) {
    const [issue] = read.error.issues;
    throw new AppError(`${path}: ${issue?.path.join(".") || "(top level)"}: ${issue?.message}; download the file again`, {
      code: "BadModelConfig",
    });
  }
  const check = (field: string, found: string | number, supported: readonly (string | number)[]): void => {
    if (supported.includes(found)) return;
    throw new AppError(
      `${path}: ${field} is ${JSON.stringify(found)}, supported: ${supported.join(", ")}; quantize the model anew so, or import it as it was before`,
      { code: "UnsupportedModel" },
    );
  };
  const { quant_method: method, bits, group_size: groupSize, desc_act: descAct } = read.data;
  check("quant_method", method, Object.keys(methods));
  if (!isMethod(method)) throw new TypeError(method);
  const { bits: widths, formats, format } = methods[method] as Method;
  const [field, value] = format(read.data);
  check("bits", bits, widths);
  check(field, value, formats);
  const other = Object.keys(read.data.dynamic ?? {}).find((pattern) => !pattern.startsWith("-:"));
  if (other !== undefined) check("dynamic", other, ["patterns that begin with -:"]);
  return { method, bits, groupSize, descAct: descAct ?? false, format: value };
}

/** For a tensor of words; throws where no file says what is in them, or what no rule unpacks. */
export async function quantizationIn(dir: string, words: string): Promise<Quantization> {
  const there = async (file: string): Promise<boolean> => (await statIfThere(join(dir, file))) !== undefined;
  const config = (await there("config.json")) ? await readConfig(dir, "BadModelConfig") : undefined;
  const { quantization_config: said } = (config ?? {}) as { readonly quantization_config?: unknown };
  if (said !== undefined && said !== null) return parsed(`${join(dir, "config.json")}: quantization_config`, said);
  for (const [file, named] of Object.entries(olderFiles)) {
    const older = join(dir, file);
    if (await there(file)) return parsed(older, named(Object(await readJson(older, "BadModelConfig"))));
  }
  throw new AppError(
    `${dir}: tensor "${words}" is of words, and neither quantization_config in config.json nor ${Object.keys(olderFiles).join(" nor ")} says what it packs; download the one that is the model's`,
    { code: "BadModelConfig" },
  );
}
