// gpt-oss's switch: three efforts, none of which turns reasoning off.
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
