// The registry of recipes and the parser of their options, such as "switch:0.003,device:0.05:4". A new recipe is a file, or a row
// of a file of its kind, and one line here.
import { AppError } from "../../../crds/common.ts";
import type { ModelSource } from "../model/model-source.ts";
import { type TrainedModel, wholeModel } from "../model/trained-model.ts";
import { balance } from "./balance.ts";
import { denseToSparse } from "./dense-to-sparse.ts";
import { fedavg, fedspeed } from "./local-steps.ts";
import { mixlora } from "./mixlora.ts";
import { type Numbers, type Recipe, type RecipeOption, type RecipeRun, type RecipeSetting, recipeOptions } from "./recipe.ts";
import { spawn } from "./spawn.ts";

const recipes: Readonly<Record<string, Recipe>> = {
  ...balance,
  mixlora,
  spawn,
  "dense-to-sparse": denseToSparse,
  fedavg,
  fedspeed,
};

const several: readonly RecipeOption[] = ["balance"];

export const usageOf = (option: RecipeOption): string =>
  Object.entries(recipes)
    .filter(([, recipe]) => recipe.option === option)
    .map(([name, { unnamed, numbers }]) =>
      [...(unnamed ? [] : [name]), ...Object.keys(numbers).map((each) => each.toUpperCase())].join(":"),
    )
    .join(", ");

const refused = (option: RecipeOption, text: string, reason: string): AppError =>
  new AppError(`--${option} is "${text}"; ${reason}`, { code: "BadOption", operation: "reading the settings of a run" });

const recipeOf = ({ name }: RecipeSetting): Recipe => recipes[name] as Recipe;

const textOf = (setting: RecipeSetting): string =>
  [...(recipeOf(setting).unnamed ? [] : [setting.name]), ...Object.values(setting.numbers)].join(":");

export const refuseRecipe = (setting: RecipeSetting, reason: string): AppError =>
  refused(recipeOf(setting).option, textOf(setting), reason);

function settingOf(option: RecipeOption, text: string): RecipeSetting {
  const parts = text.split(":").map((part) => part.trim());
  const only = Object.keys(recipes).find((each) => recipes[each]?.option === option && recipes[each].unnamed);
  const [name, texts] = only === undefined ? [parts[0] ?? "", parts.slice(1)] : [only, parts];
  const recipe = Object.hasOwn(recipes, name) ? recipes[name] : undefined;
  if (recipe?.option !== option) throw refused(option, text, `known are ${usageOf(option)}`);
  const wanted = Object.entries(recipe.numbers);
  const values = texts.map((each) => (each === "" ? Number.NaN : Number(each)));
  if (values.length !== wanted.length || values.some(Number.isNaN)) throw refused(option, text, `it is written as ${usageOf(option)}`);
  for (const [i, [each, { allows, must }]] of wanted.entries())
    if (!allows(values[i] as number)) throw refused(option, text, `${each.toUpperCase()} must be ${must}`);
  return { name, numbers: Object.fromEntries(wanted.map(([each], i) => [each, values[i] as number])) };
}

/** The recipes of these options; none for "". Throws AppError `BadOption`. */
export function parseRecipes(texts: Partial<Readonly<Record<RecipeOption, string>>>): readonly RecipeSetting[] {
  return recipeOptions.flatMap((option) => {
    const text = texts[option] ?? "";
    if (text.trim() === "") return [];
    const each = several.includes(option) ? text.split(",") : [text];
    const settings = each.map((one) => settingOf(option, one.trim()));
    const twice = settings.find(({ name }, i) => settings.findIndex((other) => other.name === name) !== i);
    if (twice !== undefined) throw refused(option, text, `${twice.name} stands there twice; leave one out`);
    return settings;
  });
}

/** The recipes by option as a run's identity has them; "none" without any. */
export function recipeTexts(settings: readonly RecipeSetting[] = []): Readonly<Record<RecipeOption, string>> {
  const text = (option: RecipeOption): string =>
    settings
      .filter((each) => recipeOf(each).option === option)
      .map(textOf)
      .join(",");
  return Object.fromEntries(recipeOptions.map((option) => [option, text(option) || "none"])) as Record<RecipeOption, string>;
}

/** Throws AppError `BadOption` for recipes that do not suit the run or each other. */
export function checkRecipes(settings: readonly RecipeSetting[], run: Omit<RecipeRun, "beside">): void {
  const beside = (option: RecipeOption): Numbers | undefined => settings.find((each) => recipeOf(each).option === option)?.numbers;
  for (const setting of settings) {
    const reason = recipeOf(setting).refuses?.(setting.numbers, { ...run, beside });
    if (reason !== undefined) throw refuseRecipe(setting, reason);
  }
}

interface Hooked<Hook extends keyof Recipe> {
  readonly setting: RecipeSetting;
  readonly numbers: Numbers;
  readonly recipe: Recipe;
  readonly hook: NonNullable<Recipe[Hook]>;
}

export function having<Hook extends keyof Recipe>(settings: readonly RecipeSetting[] = [], hook: Hook): readonly Hooked<Hook>[] {
  return settings.flatMap((setting) => {
    const recipe = recipeOf(setting);
    const found = recipe[hook];
    return found === undefined ? [] : [{ setting, numbers: setting.numbers, recipe, hook: found }];
  });
}

/** Steps between two meetings; undefined with one world. */
export const localSteps = (settings: readonly RecipeSetting[] | undefined): number | undefined =>
  having(settings, "meeting")[0]?.numbers.steps;

/** How far parameters move along a gradient before the one that counts; 0: not at all. */
export const perturbationRadius = (settings: readonly RecipeSetting[] | undefined): number =>
  having(settings, "radius").reduce((sum, { hook, numbers }) => sum + hook(numbers), 0);

/** The last step of a run's first stage, if another follows. */
export const birthStep = (settings: readonly RecipeSetting[] | undefined): number | undefined =>
  having(settings, "birth").map(({ hook, numbers }) => hook.step(numbers))[0];

interface Asked {
  readonly recipes?: readonly RecipeSetting[] | undefined;
  readonly seed: number;
}

export function trainedModel(source: ModelSource, { recipes: settings, seed }: Asked, stage = 0): TrainedModel {
  const after = birthStep(settings) ?? 0;
  for (const { setting, numbers, hook } of having(settings, "model")) {
    const refuse = (reason: string): never => {
      throw refuseRecipe(setting, reason);
    };
    const model = hook(source, numbers, { seed, stage, after, refuse });
    if (model !== undefined) return model;
  }
  return wholeModel(source);
}
