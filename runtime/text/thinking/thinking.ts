// DeepSeek V3.1's switch: reasoning on or off.
import type { ThinkingSwitch } from "./switch.ts";

export const thinking: ThinkingSwitch = {
  writtenIn: (template) => /\bthinking is (not )?defined\b|\bif thinking\b/.test(template),
  variables: (effort) => ({ thinking: effort !== "none" }),
};
