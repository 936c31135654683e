// A switch by which chat templates are told how much a model is to think before it answers. Types only; index.ts has the list.

/** The words that clients have for it, as in OpenAI's API. */
export const efforts = ["none", "minimal", "low", "medium", "high", "xhigh"] as const;
export type Effort = (typeof efforts)[number];

/** Variables of a template. */
export type Variables = Readonly<Record<string, boolean | string>>;

export interface ThinkingSwitch {
  /** True where a chat template reads it. */
  writtenIn(template: string): boolean;
  /** Its variables for an effort; undefined where it has no word for that. */
  variables(effort: Effort): Variables | undefined;
}
