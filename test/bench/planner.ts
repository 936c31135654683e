// `npm run bench -- planner`: the planner's acceptance table on generated traces, with the in-repo EPLB and the exact optimum as
// baselines; planning times, their growth, many deployments. On any number of seeds.
import { AppError } from "../../crds/common.ts";
import { freshRows } from "./planner-fresh.ts";
import { forgetTraces, type Row } from "./planner-kit.ts";
import { manyDeployments } from "./planner-many.ts";
import { qualityRows } from "./planner-quality.ts";
import { growthTable, replanRows, splitRow } from "./planner-times.ts";

const groups: Readonly<Record<string, (seed: number) => Promise<readonly object[]>>> = {
  11: replanRows,
  12: async (seed) => [await splitRow(seed)],
  many: manyDeployments,
  growth: growthTable,
  fresh: freshRows,
};

const seedMax = 1_000_000;

interface Wanted {
  readonly rows: (name: string) => boolean;
  readonly seeds: readonly number[];
}

/** Names of rows or groups to run, none = all; --seed N or --seeds A,B or A-B. */
function wantedOf(args: readonly string[]): Wanted {
  const names: string[] = [];
  let seeds: readonly number[] = [1];
  for (let i = 0; i < args.length; i++) {
    const arg = args[i] as string;
    if (!arg.startsWith("-")) names.push(arg);
    else if (arg === "--seed" || arg === "--seeds") seeds = seedsOf(arg, args[++i]);
    else throw new AppError(`no option ${arg}; there are --seed, --seeds`, { code: "InvalidOption" });
  }
  const answersTo = (name: string): string[] => [name, name.replace(/[a-z]$/, "")];
  const known = new Set([...Object.keys(qualityRows).flatMap(answersTo), ...Object.keys(groups)]);
  const unknown = names.filter((name) => !known.has(name));
  if (unknown.length > 0) throw new AppError(`no row ${unknown.join(", ")}; there are ${[...known].join(", ")}`, { code: "InvalidOption" });
  return { rows: (name) => names.length === 0 || answersTo(name).some((answer) => names.includes(answer)), seeds };
}

function seedsOf(option: string, text = ""): readonly number[] {
  const [first = Number.NaN, last = first] = (/^\d+-\d+$/.test(text) ? text.split("-") : [text]).map(Number);
  const seeds = /^\d+(-\d+)?$/.test(text)
    ? Array.from({ length: Math.min(100, Math.max(0, last - first + 1)) }, (_, i) => first + i)
    : text.split(",").map(Number);
  if (seeds.length === 0 || seeds.some((seed) => !Number.isInteger(seed) || seed < 1 || seed > seedMax))
    throw new AppError(`${option}: "${text}" is no seed from 1 to ${seedMax}, list such as 1,5 or range such as 1-3`, {
      code: "InvalidOption",
    });
  return seeds;
}

export async function plannerBench(args: readonly string[]): Promise<readonly object[]> {
  const wanted = wantedOf(args);
  const rows: object[] = [];
  for (const seed of wanted.seeds) {
    for (const [name, run] of Object.entries(qualityRows)) {
      if (!wanted.rows(name)) continue;
      const [what, measured, required, ok] = await run(seed);
      rows.push(told({ row: name, seed, what, measured, required, ok }));
    }
    for (const [name, run] of Object.entries(groups)) {
      if (wanted.rows(name)) rows.push(...(await run(seed)).map((row) => told({ ...row, seed })));
    }
    forgetTraces();
  }
  return rows;
}

/** Prints a row to standard error as soon as it is known: all rows take minutes. */
function told<T extends object>(row: T): T {
  process.stderr.write(`${"measured" in row ? sentence(row as unknown as Row) : JSON.stringify(row)}\n`);
  return row;
}

function sentence({ row, seed, what, measured, required, ok }: Row): string {
  const mark = ok === true ? "ok  " : ok === false ? "MISS" : "    ";
  return `${mark} ${row} (seed ${seed}): ${what}: ${measured} (must: ${required})`;
}
