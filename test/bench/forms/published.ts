// The widths that MC-MoE's authors published for Mixtral's experts, found by Gurobi, beside those that the product's allocator finds from
// their measured factors by their rules. The files have no licence and are not in this repository.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { AppError } from "../../../crds/common.ts";
import { allocate, type Choice } from "../../../runtime/modelstore/quantize/allocate.ts";
import { sum } from "../../../runtime/placement/imbalance.ts";
import { invalid } from "../serve.ts";
import { type Pickled, type PickledMap, unpickled } from "./pickle.ts";

export const widths = [1, 2, 3] as const;
/** Bits of a block's experts in all. */
const budgets = [12, 13, 14, 15, 16, 17, 18, 19, 20] as const;
const powers = { share: 1, weight: 1.5 } as const;

export interface Factors {
  /** Of each expert: how often it is chosen, with which weights, and its error at each width. */
  readonly counts: readonly number[];
  readonly weights: readonly number[];
  readonly errors: readonly (readonly number[])[];
}

/** Their cost: both shares to powers, times the error. */
export function costsOf({ counts, weights, errors }: Factors): number[][] {
  const [all, allWeights] = [sum(counts), sum(weights)];
  return errors.map((own, i) => {
    const share = (counts[i] as number) / all;
    return own.map((error) => share ** powers.share * ((weights[i] as number) / allWeights) ** powers.weight * error);
  });
}

const totalOf = (costs: readonly (readonly number[])[], chosen: readonly number[]): number =>
  sum(chosen.map((choice, i) => costs[i]?.[choice] ?? Number.POSITIVE_INFINITY));

/** The least cost within so many bits where at least one expert has each of the two larger widths, as their programme asks. */
export function solved(costs: readonly (readonly number[])[], bits: number): number[] | undefined {
  const choices = costs.map((own) => own.map((cost, i): Choice => ({ bytes: widths[i] as number, cost })));
  let best: number[] | undefined;
  for (const three of choices.keys())
    for (const two of choices.keys()) {
      if (two === three) continue;
      const given = (i: number): number | undefined => (i === three ? 2 : i === two ? 1 : undefined);
      const held = choices.map((own, i) => own.filter((_, choice) => choice === (given(i) ?? choice)));
      const found = allocate(held, bits)?.map((choice, i) => given(i) ?? choice);
      if (found !== undefined && (best === undefined || totalOf(costs, found) < totalOf(costs, best))) best = found;
    }
  return best;
}

async function pickleIn(dir: string, name: string): Promise<PickledMap> {
  const file = join(dir, name);
  try {
    const found = unpickled(await readFile(file));
    if (found instanceof Map) return found;
  } catch (caught) {
    throw invalid(`--published: ${file}: ${AppError.from(caught).message}`);
  }
  throw invalid(`--published: ${file} is no dictionary`);
}

const listed = (found: Pickled | undefined): Pickled[] => (found instanceof Map ? [...found.values()] : [...((found ?? []) as Pickled[])]);
const numbersOf = (found: Pickled | undefined): number[] => listed(found).map(Number);

/** A row for each budget. `dir`: the repository Aaronhuang-778/MC-MoE. */
export async function publishedRows(dir: string): Promise<readonly object[]> {
  const [counts, weights, errors] = await Promise.all(
    ["act_frequency", "act_weight", "quant_loss"].map((name) => pickleIn(dir, `experts_${name}.pkl`)),
  );
  return Promise.all(
    budgets.map(async (bits) => {
      const answers = await pickleIn(dir, `experts_mixture_bit_selection/experts_mixture_bitwidth_combination_${bits}bit.pkl`);
      let [identical, cheaper, dearer] = [0, 0, 0];
      for (const [block, answer] of answers) {
        const costs = costsOf({
          counts: numbersOf(counts?.get(block)),
          weights: numbersOf(weights?.get(block)),
          errors: listed(errors?.get(block)).map(numbersOf),
        });
        const [own, theirs] = [solved(costs, bits) ?? [], numbersOf(answer).map((width) => width - 1)];
        if (own.join() === theirs.join()) identical += 1;
        else if (totalOf(costs, own) < totalOf(costs, theirs)) cheaper += 1;
        else dearer += 1;
      }
      return { bitsOfABlock: bits, blocks: answers.size, identical, cheaper, dearer, ok: identical === answers.size };
    }),
  );
}
