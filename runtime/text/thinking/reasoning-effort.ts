// The switch of gpt-oss: three efforts, of which none is no thoughts at all.
import type { Effort, ThinkingSwitch } from "./switch.ts";

const levels: Readonly<Record<Effort, string | undefined>> = {
  none: undefined,
  minimal: "low",
  low: "low",
  medium: "medium",
  high: "high",
  xhigh: "high",
};

export const reasoningEffort: ThinkingSwitch = {
  writtenIn: (template) => /\breasoning_effort\b/.test(template),
  variables: (effort) => {
    const level = levels[effort];
    return level === undefined ? undefined : { reasoning_effort: level };
  },
};
