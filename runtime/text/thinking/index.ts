// The registry of switches by which chat templates are told how much to think: the only place that lists them. Pure.
import { enableThinking } from "./enable-thinking.ts";
import { reasoningEffort } from "./reasoning-effort.ts";
import type { Effort, ThinkingSwitch, Variables } from "./switch.ts";
import { thinking } from "./thinking.ts";

const switches: readonly ThinkingSwitch[] = [enableThinking, thinking, reasoningEffort];

/** What a template is told of an effort by the switches that it has; undefined where none of them has a word for it. */
export type Thinking = (effort: Effort) => Variables | undefined;

/** Undefined where a template has no switch. */
export function thinkingOf(template: string): Thinking | undefined {
  const found = switches.filter((one) => one.writtenIn(template));
  if (found.length === 0) return undefined;
  return (effort) => {
    const variables = found.map((one) => one.variables(effort)).filter((one) => one !== undefined);
    return variables.length === 0 ? undefined : Object.fromEntries(variables.flatMap((one) => Object.entries(one)));
  };
}
