// Picks the files of a listing that form the model: a store, a safetensors folder, or one GGUF.
import { AppError } from "../../../crds/common.ts";
import type { CodecName } from "../../../crds/names.ts";
import { companions } from "../../weights/model-folder.ts";
import { indexFile } from "../../weights/store-reader.ts";

export const shardIndex = "model.safetensors.index.json";
const namedMax = 8;
const part = /-(\d{5})-of-(\d{5})\.gguf$/;

export interface Picked {
  readonly kind: "store" | "folder" | "gguf";
  /** Sorted in opening order; a split GGUF's first part leads. */
  readonly names: readonly string[];
}

export interface PickOptions {
  /** Wanted codecs of a store; default all. */
  readonly codecs?: readonly CodecName[] | undefined;
  /** Files that a sharded folder's index names. */
  readonly shards?: readonly string[] | undefined;
}

/** `from` is for messages. */
export function pickFiles(from: string, all: readonly string[], { codecs, shards }: PickOptions): Picked {
  const has = (name: string): boolean => all.includes(name);
  const beside = ["config.json", ...Object.keys(companions)].filter(has);
  if (has(indexFile)) return { kind: "store", names: [indexFile, ...beside, "dense.safetensors", ...unitFiles(from, all, codecs)] };
  const weights = shards === undefined ? ["model.safetensors"].filter(has) : [shardIndex, ...shards];
  if (has("config.json") && weights.length > 0) {
    const missing = ["tokenizer.json", ...weights].find((name) => !has(name));
    if (missing === undefined) return { kind: "folder", names: [...beside, ...weights] };
    throw new AppError(`${from}: has no ${missing}; the model cannot be served without`, { code: "UnsupportedModel" });
  }
  return { kind: "gguf", names: oneGguf(from, all) };
}

function unitFiles(from: string, all: readonly string[], codecs: readonly CodecName[] | undefined): readonly string[] {
  const there = all.filter((name) => /^experts-[\w]+\.bin$/.test(name));
  if (codecs === undefined) return there;
  const wanted = codecs.map((codec) => `experts-${codec}.bin`);
  const missing = codecs.find((codec) => !there.includes(`experts-${codec}.bin`));
  if (missing === undefined) return wanted;
  const known = there.map((name) => name.slice("experts-".length, -".bin".length)).join(", ");
  throw new AppError(`${from}: is a model store without the codec ${missing}; it has ${known || "none"}`, { code: "UnsupportedModel" });
}

function oneGguf(from: string, all: readonly string[]): readonly string[] {
  const files = all.filter((name) => name.endsWith(".gguf")).sort();
  const models = new Map<string, string[]>();
  for (const name of files) {
    const model = name.replace(part, ".gguf");
    models.set(model, [...(models.get(model) ?? []), name]);
  }
  const [only, ...others] = [...models.values()];
  if (only && others.length === 0) return only;
  if (only) {
    const firsts = [...models.values()].map(([first]) => first).slice(0, namedMax);
    throw new AppError(
      `${from}: has ${models.size} GGUF models (${firsts.join(", ")}): name one of them, as https://<host>/<path>/<file>.gguf`,
      {
        code: "UnsupportedModel",
      },
    );
  }
  throw new AppError(`${from}: has neither a model store, nor config.json with safetensors, nor a GGUF file`, { code: "UnsupportedModel" });
}
