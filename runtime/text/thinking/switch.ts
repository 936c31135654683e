// The interface of a chat template's switch for reasoning effort; index.ts lists the switches.

/** OpenAI's values. */
export const efforts = ["none", "minimal", "low", "medium", "high", "xhigh"] as const;
export type Effort = (typeof efforts)[number];

export type Variables = Readonly<Record<string, boolean | string>>;

export interface ThinkingSwitch {
  writtenIn(template: string): boolean;
  /** Undefined where the template does not support the effort. */
  variables(effort: Effort): Variables | undefined;
}
