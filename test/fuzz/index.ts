// The registry of fuzzers: the only place that lists them. operator/docs/extend.md says how one is added.
import { controls } from "./controls.ts";
import type { AnyFuzzer } from "./fuzzer.ts";
import { deployments } from "./of/deployments.ts";
import { frames } from "./of/frames.ts";
import { gguf } from "./of/gguf.ts";
import { http } from "./of/http.ts";
import { loadMessages } from "./of/load-messages.ts";
import { messages } from "./of/messages.ts";
import { plans } from "./of/plans.ts";
import { safetensors } from "./of/safetensors.ts";
import { schemas } from "./of/schemas.ts";
import { storeIndex } from "./of/store-index.ts";
import { templates } from "./of/templates.ts";
import { tokenizers } from "./of/tokenizers.ts";
import { tokens } from "./of/tokens.ts";
import { toolCalls } from "./of/tool-calls.ts";
import { trainingJobs } from "./of/training-jobs.ts";

export const fuzzers: readonly AnyFuzzer[] = [
  deployments,
  trainingJobs,
  loadMessages,
  plans,
  messages,
  frames,
  toolCalls,
  tokens,
  schemas,
  http,
  templates,
  gguf,
  safetensors,
  storeIndex,
  tokenizers,
];

export function fuzzerOf(name: string): AnyFuzzer {
  const found = [...fuzzers, ...controls].find((one) => one.name === name);
  if (found === undefined) throw new Error(`${name} is not one of ${fuzzers.map((one) => one.name).join(", ")}`);
  return found;
}
