// The registry of model families. To add one: its file and one line here.
import { AppError } from "../../crds/common.ts";
import type { ModelProgram } from "../kernels/segment.ts";
import { bam } from "./bam.ts";
import { deepseek } from "./deepseek.ts";
import { architectureOf, type ModelFamily } from "./family.ts";
import { gptOss } from "./gpt-oss.ts";
import { llama } from "./llama.ts";
import { mixtral } from "./mixtral.ts";
import { moePlusPlus } from "./moe-plus-plus.ts";
import { momentumSmoe } from "./momentum-smoe.ts";
import { olmoe } from "./olmoe.ts";
import { qwen3, qwen3Moe } from "./qwen3.ts";
import { rmoe } from "./rmoe.ts";

const families: readonly ModelFamily[] = [mixtral, qwen3Moe, olmoe, gptOss, deepseek, llama, qwen3, moePlusPlus, momentumSmoe, rmoe, bam];

export const knownArchitectures: readonly string[] = families.flatMap((family) => family.architectures);

/** Throws AppError `UnknownArchitecture`, which lists the known ones. */
export function familyOf(config: unknown): ModelFamily {
  const architecture = architectureOf(config);
  const family = families.find((candidate) => candidate.architectures.includes(architecture));
  if (family) return family;
  throw new AppError(`config.json: architecture "${architecture}" is not served; known: ${knownArchitectures.join(", ")}`, {
    code: "UnknownArchitecture",
    operation: "reading config.json",
  });
}

/** config.json -> segments. */
export function programOf(config: unknown): ModelProgram {
  return familyOf(config).program(config);
}
