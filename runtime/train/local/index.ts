// The recipes of local steps there are, and how a run asks for one: "fedavg:20", "fedspeed:20:0.1:0.01". To add one: its file, one line
// here. Pure.
import { AppError } from "../../../crds/common.ts";
import { fedavg } from "../recipes/fedavg.ts";
import { fedspeed } from "../recipes/fedspeed.ts";
import type { LocalRecipe, LocalSetting } from "./local.ts";

const recipes: Readonly<Record<string, LocalRecipe>> = { fedavg, fedspeed };

/** Steps between two meetings, at most: a world that waits has a sign of each step of the others. */
const stepsMax = 10_000;

/** "fedavg:STEPS, fedspeed:STEPS:LAMBDA:RHO" */
export const localUsage = Object.entries(recipes)
  .map(([name, { numbers }]) => [name, "STEPS", ...numbers.map((number) => number.name.toUpperCase())].join(":"))
  .join(", ");

const refused = (text: string, reason: string): AppError =>
  new AppError(`--local is "${text}"; ${reason}`, { code: "BadOption", operation: "reading the settings of a run" });

export function localOf({ name }: Pick<LocalSetting, "name">): LocalRecipe {
  const recipe = Object.hasOwn(recipes, name) ? recipes[name] : undefined;
  if (recipe === undefined) throw refused(name, `known are ${localUsage}`);
  return recipe;
}

export const localText = (setting: LocalSetting): string =>
  [setting.name, setting.steps, ...localOf(setting).numbers.map(({ name }) => setting.numbers[name])].join(":");

/** Undefined of "". Throws AppError `BadOption`. */
export function parseLocal(text: string): LocalSetting | undefined {
  if (text.trim() === "") return undefined;
  const [name = "", ...given] = text.split(":").map((part) => part.trim());
  const { numbers } = localOf({ name });
  const [steps = 0, ...own] = given.map((part) => (part === "" ? Number.NaN : Number(part)));
  if (own.length !== numbers.length || given.length === 0) throw refused(text, `it is written as one of ${localUsage}`);
  if (!(Number.isInteger(steps) && steps >= 1 && steps <= stepsMax))
    throw refused(text, `steps must be a whole number from 1 to ${stepsMax}`);
  for (const [i, number] of numbers.entries())
    if (!number.allows(own[i] as number)) throw refused(text, `${number.name} must be ${number.must}`);
  return { name, steps, numbers: Object.fromEntries(numbers.map((number, i) => [number.name, Math.fround(own[i] as number)])) };
}

interface Meeting {
  readonly local: LocalSetting;
  /** Of the run, and between checkpoints. */
  readonly steps: number;
  readonly everySteps: number;
  readonly shadow: boolean;
}

/** Worlds end, and have checkpoints, where they have met. Throws AppError `BadOption`. */
export function checkLocal({ local, steps, everySteps, shadow }: Meeting): void {
  const text = localText(local);
  if (steps % local.steps !== 0) throw refused(text, `--steps is ${steps}; it must be a multiple of ${local.steps}`);
  if (everySteps % local.steps !== 0) throw refused(text, `--checkpoint-every is ${everySteps}; it must be a multiple of ${local.steps}`);
  if (shadow) throw refused(text, "worlds that meet go on from checkpoints, so that shadows are of no use; leave them out");
}
