// The recipes of balance there are, and how a run asks for them: "switch:0.01", or several as "switch:0.003,device:0.05:4". To add one:
// its file, one line here. Pure.
import { AppError } from "../../../crds/common.ts";
import type { BalanceRecipe, BalanceSetting } from "./balance.ts";
import { biasOfChoice } from "./bias.ts";
import { deviceLoss } from "./device.ts";
import { switchLoss } from "./switch.ts";

const recipes: Readonly<Record<string, BalanceRecipe>> = {
  switch: switchLoss,
  device: deviceLoss,
  bias: biasOfChoice,
};

const groupsMax = 4096;

/** "switch:RATE, device:RATE:GROUPS, bias:RATE" */
export const balanceUsage = Object.entries(recipes)
  .map(([name, { grouped }]) => `${name}:RATE${grouped ? ":GROUPS" : ""}`)
  .join(", ");

export const refuseBalance = (text: string, reason: string): AppError =>
  new AppError(`--balance has "${text}"; ${reason}`, { code: "BadOption", operation: "reading the settings of a run" });

export function recipeOf({ name }: BalanceSetting): BalanceRecipe {
  const recipe = Object.hasOwn(recipes, name) ? recipes[name] : undefined;
  if (recipe === undefined) throw refuseBalance(name, `known are ${balanceUsage}`);
  return recipe;
}

export const balanceText = ({ name, rate, groups }: BalanceSetting): string => `${name}:${rate}${groups === undefined ? "" : `:${groups}`}`;

/** Bounds that hold for every model. Throws AppError `BadOption`. */
export function checkBalance(setting: BalanceSetting): void {
  const { grouped } = recipeOf(setting);
  const { rate, groups } = setting;
  if (!(rate > 0 && rate <= 1)) throw refuseBalance(balanceText(setting), "the number behind the name must be above 0 and at most 1");
  if (grouped !== (groups !== undefined)) throw refuseBalance(balanceText(setting), `it is written as one of ${balanceUsage}`);
  if (groups !== undefined && !(Number.isInteger(groups) && groups >= 1 && groups <= groupsMax))
    throw refuseBalance(balanceText(setting), `groups must be a whole number from 1 to ${groupsMax}`);
}

function settingOf(text: string): BalanceSetting {
  const [name = "", ...numbers] = text.split(":").map((part) => part.trim());
  if (numbers.length === 0 || numbers.length > 2 || numbers.some((number) => number === "" || !Number.isFinite(Number(number))))
    throw refuseBalance(text, `it is written as one of ${balanceUsage}`);
  const setting = { name, rate: Number(numbers[0]), groups: numbers[1] === undefined ? undefined : Number(numbers[1]) };
  checkBalance(setting);
  return setting;
}

/** The line's text as settings, each recipe once; none of "". Throws AppError `BadOption`. */
export function parseBalance(text: string): readonly BalanceSetting[] {
  if (text.trim() === "") return [];
  const settings = text.split(",").map(settingOf);
  const twice = settings.find(({ name }, i) => settings.findIndex((other) => other.name === name) !== i);
  if (twice !== undefined) throw refuseBalance(text, `${twice.name} stands there twice; leave one out`);
  return settings;
}
