// Runs on small models for tests of what a recipe, or a family of models, is good for.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, type TestContext, test } from "node:test";
import type { StepReport } from "../../../runtime/train/loop/run-step.ts";
import type { TrainSettings } from "../../../runtime/train/loop/train-settings.ts";
import { parseRecipes } from "../../../runtime/train/recipes/index.ts";
import { chainedTokens, runSettings, writeCorpus, writeModel } from "./training.ts";
import { trainRanks } from "./training-ranks.ts";

export const folder = mkdtempSync(join(tmpdir(), "enodia-recipes-"));
after(() => rmSync(folder, { recursive: true }));

let made = 0;
export const modelOf = (family: string, config: Readonly<Record<string, unknown>>): string =>
  writeModel(join(folder, `model-${made++}`), family, config);

/** Token data of tokens that follow from one another. */
export async function chainedData(tokens = 8193, seed = 7): Promise<string> {
  const data = join(folder, `data-${tokens}-${seed}`);
  await writeCorpus(data, chainedTokens(tokens, seed));
  return data;
}

export const meanOf = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;

interface RunOptions {
  readonly ranks?: number;
  /** Steps after which the run is told to stop. */
  readonly stopAfter?: number;
  /** The folder of its output; a new one by default. */
  readonly name?: string;
}

/** A run of 100 steps by default, with the reports of its steps, the mean loss of the last 20 and the number of trained parameters. */
export async function run(
  given: Partial<TrainSettings> & Pick<TrainSettings, "model" | "data">,
  { ranks = 1, stopAfter = Number.POSITIVE_INFINITY, name = `run-${made++}` }: RunOptions = {},
) {
  const settings: TrainSettings = {
    ...runSettings,
    out: join(folder, name),
    sequences: 16,
    sequenceLength: 32,
    microBatches: 1,
    schedule: cosine(100),
    checkpoint: { everySteps: 1000, keep: 1 },
    ...given,
  };
  const reports: StepReport[] = [];
  let parameters = 0;
  const [end] = await trainRanks(ranks, settings, (rank) => ({
    now: () => 0,
    stopped: () => (reports.at(-1)?.step ?? 0) >= stopAfter,
    onValidation() {},
    onStart(start) {
      parameters = start.parameters;
    },
    onStep(report) {
      if (rank === 0) reports.push(report);
    },
  }));
  return { ...end!, out: settings.out, reports, parameters, loss: meanOf(reports.slice(-20).map(({ loss }) => loss)) };
}

export const cosine = (steps: number, rate = 3e-3) => ({ name: "cosine", rate, warmup: 5, steps, floor: 0.1 }) as const;

export const balanced = parseRecipes({ balance: "switch:0.01" });

/** Seeds of the weights; more, by ENODIA_RECIPE_SEEDS, take longer. */
export function testOfSeeds(name: string, body: (seed: number, t: TestContext) => Promise<void>): void {
  for (let seed = 1; seed <= Number(process.env.ENODIA_RECIPE_SEEDS ?? 1); seed++) test(`${name}: seed ${seed}`, (t) => body(seed, t));
}
