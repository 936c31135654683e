// The registry of reasoning switches of chat templates.
import { enableThinking } from "./enable-thinking.ts";
import { reasoningEffort } from "./reasoning-effort.ts";
import type { Effort, ThinkingSwitch, Variables } from "./switch.ts";
import { thinking } from "./thinking.ts";

const switches: readonly ThinkingSwitch[] = [enableThinking, thinking, reasoningEffort];

/** Template variables for an effort; undefined where no switch supports it. */
export type Thinking = (effort: Effort) => Variables | undefined;

/** Undefined without a switch. */
export function thinkingOf(template: string): Thinking | undefined {
  const found = switches.filter((one) => one.writtenIn(template));
  if (found.length === 0) return undefined;
  return (effort) => {
    const variables = found.map((one) => one.variables(effort)).filter((one) => one !== undefined);
    return variables.length === 0 ? undefined : Object.fromEntries(variables.flatMap((one) => Object.entries(one)));
  };
}
