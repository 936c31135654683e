// The switch of Qwen3 and GLM: thoughts or none.
import type { ThinkingSwitch } from "./switch.ts";

export const enableThinking: ThinkingSwitch = {
  writtenIn: (template) => /\benable_thinking\b/.test(template),
  variables: (effort) => ({ enable_thinking: effort !== "none" }),
};
