// The registry of formats in which models write calls of tools: the only place that lists them. Pure.
import { deepseekV3, deepseekV31 } from "./deepseek.ts";
import type { ToolFormat } from "./format.ts";
import { harmony } from "./harmony.ts";
import { hermes } from "./hermes.ts";
import { llama } from "./llama.ts";
import { mistral } from "./mistral.ts";

const formats: readonly ToolFormat[] = [hermes, deepseekV3, deepseekV31, harmony, llama, mistral];

/** The format of a chat template; undefined where it takes no tools, or writes their calls in a way that is not known. */
export function toolFormatOf(template: string): ToolFormat | undefined {
  return template.includes("tools") ? formats.find((format) => format.writtenIn(template)) : undefined;
}
