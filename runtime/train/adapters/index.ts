// The recipes of adapters there are, and how a run asks for one: "mixlora:8:2:16". To add one: its file, one line here. Pure.

import { mixlora } from "../recipes/mixlora.ts";
import type { AdapterRecipe, AdapterSetting } from "./adapter.ts";
import { refuseAdapters } from "./refuse.ts";

const recipes: Readonly<Record<string, AdapterRecipe>> = { mixlora };

/** "mixlora:EXPERTS:TOPK:RANK" */
export const adaptersUsage = Object.entries(recipes)
  .map(([name, { numbers }]) => [name, ...numbers].join(":"))
  .join(", ");

export function adaptersOf(setting: AdapterSetting): AdapterRecipe {
  const recipe = Object.hasOwn(recipes, setting.name) ? recipes[setting.name] : undefined;
  if (recipe === undefined) throw refuseAdapters(setting, `known is ${adaptersUsage}`);
  if (recipe.numbers.length !== setting.numbers.length || setting.numbers.some((number) => !Number.isInteger(number) || number < 1))
    throw refuseAdapters(setting, `it is written as ${adaptersUsage}, with whole numbers from 1`);
  return recipe;
}

/** The line's text as a setting; undefined of "". Throws AppError `BadOption`. */
export function parseAdapters(text: string): AdapterSetting | undefined {
  if (text.trim() === "") return undefined;
  const [name = "", ...numbers] = text.split(":").map((part) => part.trim());
  if (numbers.some((number) => !/^\d+$/.test(number)))
    throw refuseAdapters(text, `it is written as ${adaptersUsage}, with whole numbers from 1`);
  const setting = { name, numbers: numbers.map(Number) };
  adaptersOf(setting);
  return setting;
}
