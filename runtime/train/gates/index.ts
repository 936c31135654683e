// The recipes of gates there are, and how a run asks for one: "dense-to-sparse:4:0.05:200". To add one: its file, one line here. Pure.
import { denseToSparse } from "../recipes/dense-to-sparse.ts";
import type { GateRecipe, GateSetting } from "./gate.ts";
import { refuseGate } from "./refuse.ts";

const recipes: Readonly<Record<string, GateRecipe>> = { "dense-to-sparse": denseToSparse };

/** "dense-to-sparse:TEMPERATURE:THRESHOLD:STEP" */
export const gateUsage = Object.entries(recipes)
  .map(([name, { numbers }]) => [name, ...numbers].join(":"))
  .join(", ");

/** `steps`: of the run, where that is known. Throws AppError `BadOption`. */
export function gateOf(setting: GateSetting, steps = Number.POSITIVE_INFINITY): GateRecipe {
  const recipe = Object.hasOwn(recipes, setting.name) ? recipes[setting.name] : undefined;
  if (recipe === undefined) throw refuseGate(setting, `known is ${gateUsage}`);
  if (recipe.numbers.length !== setting.numbers.length || !setting.numbers.every(Number.isFinite))
    throw refuseGate(setting, `it is written as ${gateUsage}`);
  const reason = recipe.refuses(setting, steps);
  if (reason !== undefined) throw refuseGate(setting, reason);
  return recipe;
}

/** The line's text as a setting; undefined of "". Throws AppError `BadOption`. */
export function parseGate(text: string): GateSetting | undefined {
  if (text.trim() === "") return undefined;
  const [name = "", ...numbers] = text.split(":").map((part) => part.trim());
  if (numbers.includes("")) throw refuseGate(text, `it is written as ${gateUsage}`);
  const setting = { name, numbers: numbers.map(Number) };
  gateOf(setting);
  return setting;
}
