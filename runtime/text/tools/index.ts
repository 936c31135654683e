// The registry of tool call formats.
import { deepseekV3, deepseekV31 } from "./deepseek.ts";
import type { ToolFormat } from "./format.ts";
import { harmony } from "./harmony.ts";
import { hermes } from "./hermes.ts";
import { llama } from "./llama.ts";
import { mistral } from "./mistral.ts";

const formats: readonly ToolFormat[] = [hermes, deepseekV3, deepseekV31, harmony, llama, mistral];

/** Undefined where the template takes no tools, or its call format is unknown. */
export function toolFormatOf(template: string): ToolFormat | undefined {
  return template.includes("tools") ? formats.find((format) => format.writtenIn(template)) : undefined;
}
