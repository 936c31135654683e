// The registry of optimizers. A new one is a file, a name in crds/names.ts and one line here.
import { AppError } from "../../../crds/common.ts";
import type { optimizerNames } from "../../../crds/names.ts";
import { adamw } from "./adamw.ts";
import type { Optimizer, OptimizerSettings as Settings } from "./optimizer.ts";
import { sgd } from "./sgd.ts";

export type OptimizerName = (typeof optimizerNames)[number];
export type OptimizerSettings = Settings<OptimizerName>;

const optimizers: Readonly<Record<OptimizerName, Optimizer>> = { adamw, sgd };

export const optimizerOf = ({ name }: OptimizerSettings): Optimizer => optimizers[name];

const refused = (message: string): AppError => new AppError(message, { code: "BadOption", operation: "reading the settings of a run" });

export const optimizerUsage: string = Object.entries(optimizers)
  .map(([name, { settings }]) => {
    const reported = Object.values(settings).map(({ option, fallback }) => `--${option} ${fallback}`);
    return `${name} (${reported.join(", ")})`;
  })
  .join(", ");

/** The given numbers and defaults for the rest. Throws AppError `BadOption` for an unknown setting. */
export function optimizerSettings(name: OptimizerName, given: Readonly<Record<string, number>>): OptimizerSettings {
  const { settings } = optimizers[name];
  const known = Object.values(settings).map(({ option }) => option);
  const unknown = Object.keys(given).find((option) => !known.includes(option));
  if (unknown !== undefined)
    throw refused(`--${unknown} is no setting of --optimizer ${name}; leave it out, it has --${known.join(", --")}`);
  const values = Object.entries(settings).map(([field, { option, fallback }]) => [field, given[option] ?? fallback] as const);
  return { name, values: Object.fromEntries(values) };
}

/** The given numbers that the optimizer has; a job's spec has defaults for all. */
export function knownOptions(name: OptimizerName, given: Readonly<Record<string, number>>): Readonly<Record<string, number>> {
  const known = Object.values(optimizers[name].settings).map(({ option }) => option);
  return Object.fromEntries(Object.entries(given).filter(([option]) => known.includes(option)));
}

/** Throws AppError `BadOption` for a number out of bounds. */
export function checkOptimizer(asked: OptimizerSettings): void {
  for (const [field, { option, allows, must }] of Object.entries(optimizerOf(asked).settings)) {
    const value = asked.values[field];
    if (value === undefined || !allows(value)) throw refused(`--${option} is ${value}; it must be ${must}`);
  }
}

export function optimizerIdentity(asked: OptimizerSettings): Readonly<Record<string, string | number>> {
  const numbers = Object.entries(optimizerOf(asked).settings).map(([field, { option }]) => [option, asked.values[field] ?? 0] as const);
  return { optimizer: asked.name, ...Object.fromEntries<string | number>(numbers) };
}
