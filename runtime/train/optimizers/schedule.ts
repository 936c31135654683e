// Learning-rate schedules. A new one is a name in crds/names.ts and a line in the table.
import type { scheduleNames } from "../../../crds/names.ts";

type ScheduleName = (typeof scheduleNames)[number];

/** `progress` is 0 at the first step after warm-up and 1 past the last. */
type Shape = (progress: number, floor: number) => number;

const shapes: Readonly<Record<ScheduleName, Shape>> = {
  constant: () => 1,
  cosine: (progress, floor) => floor + (1 - floor) * 0.5 * (1 + Math.cos(Math.PI * progress)),
};

export interface Schedule {
  readonly name: ScheduleName;
  readonly rate: number;
  readonly warmup: number;
  readonly steps: number;
  readonly floor: number;
}

/** `step` counts from 1. */
export function rateOf({ name, rate, warmup, steps, floor }: Schedule, step: number): number {
  if (step <= warmup) return (rate * step) / warmup;
  return rate * shapes[name](Math.min(1, (step - warmup - 1) / Math.max(1, steps - warmup)), floor);
}
