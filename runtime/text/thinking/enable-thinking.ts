// Qwen3's and GLM's switch: reasoning on or off.
import type { ThinkingSwitch } from "./switch.ts";

export const enableThinking: ThinkingSwitch = {
  writtenIn: (template) => /\benable_thinking\b/.test(template),
  variables: (effort) => ({ enable_thinking: effort !== "none" }),
};
