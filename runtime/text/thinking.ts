// Switches for reasoning in chat templates: a row says which variable a template reads, and its value for an effort.

/** OpenAI's values. */
export const efforts = ["none", "minimal", "low", "medium", "high", "xhigh"] as const;
export type Effort = (typeof efforts)[number];

export type Variables = Readonly<Record<string, boolean | number | string>>;
/** Template variables for an effort; undefined where no switch supports it. */
export type Thinking = (effort: Effort) => Variables | undefined;

interface ThinkingSwitch {
  readonly variable: string;
  /** A template that reads the variable. */
  readonly writtenIn: RegExp;
  /** Undefined where the template does not support the effort. */
  value(effort: Effort): boolean | string | undefined;
}

const onOrOff = (effort: Effort): boolean => effort !== "none";
const threeLevels: Readonly<Partial<Record<Effort, string>>> = {
  minimal: "low",
  low: "low",
  medium: "medium",
  high: "high",
  xhigh: "high",
};

const switches: readonly ThinkingSwitch[] = [
  { variable: "enable_thinking", writtenIn: /\benable_thinking\b/, value: onOrOff }, // Qwen3 and GLM
  { variable: "thinking", writtenIn: /\bthinking is (not )?defined\b|\bif thinking\b/, value: onOrOff }, // DeepSeek V3.1
  { variable: "reasoning_effort", writtenIn: /\breasoning_effort\b/, value: (effort) => threeLevels[effort] }, // gpt-oss always reasons
];

/** Undefined without a switch. */
export function thinkingOf(template: string): Thinking | undefined {
  const found = switches.filter(({ writtenIn }) => writtenIn.test(template));
  if (found.length === 0) return undefined;
  return (effort) => {
    const values = found.flatMap(({ variable, value }) => {
      const one = value(effort);
      return one === undefined ? [] : [[variable, one] as const];
    });
    return values.length === 0 ? undefined : Object.fromEntries(values);
  };
}
