// Mixed-integer programs through HiGHS: the oracle for small instances. The only file that knows the solver; callers
// describe rows and columns as data. Nothing is kept between calls.
import highsModule from "highs";
import { AppError } from "../../crds/common.ts";

export type Terms = readonly (readonly [name: string, factor: number])[];

export interface Program {
  readonly minimise: Terms;
  readonly rows: readonly { readonly terms: Terms; readonly sense: "<=" | ">=" | "="; readonly rhs: number }[];
  /** Names of 0/1 columns; all others are real numbers >= 0. */
  readonly binaries: readonly string[];
}

export interface SolveOptions {
  readonly seconds: number;
  /** Relative distance from the optimum that is good enough. */
  readonly gap: number;
}

export interface Solution {
  /** Within the gap of the optimum; false = the best found in the time given. */
  readonly optimal: boolean;
  readonly objective: number;
  value(name: string): number;
}

// The package's types describe its CommonJS form; the ES module that Node loads has the function as its default.
const loadHighs = highsModule as unknown as typeof highsModule.default;

let engine: ReturnType<typeof loadHighs> | undefined;

/** undefined when there is no solution, or none was found in time. */
export async function solve(program: Program, options: SolveOptions): Promise<Solution | undefined> {
  engine ??= loadHighs();
  const highs = await engine;
  let found: ReturnType<typeof highs.solve>;
  try {
    found = highs.solve(lpText(program), { time_limit: options.seconds, mip_rel_gap: options.gap, output_flag: false });
  } catch (cause) {
    throw new AppError(`the solver failed: ${String(cause)}`, { code: "SolverFailed", operation: "solving a program", cause });
  }
  const optimal = found.Status === "Optimal";
  if (!optimal && found.Status !== "Time limit reached") return undefined;
  const columns = found.Columns as Readonly<Record<string, { readonly Primal?: number }>>;
  if (program.binaries.some((name) => columns[name]?.Primal === undefined)) return undefined;
  return { optimal, objective: found.ObjectiveValue, value: (name) => columns[name]?.Primal ?? 0 };
}

/** CPLEX LP format, one term per line: lines have a length limit. */
function lpText({ minimise, rows, binaries }: Program): string {
  const expression = (terms: Terms): string =>
    terms.length === 0
      ? " 0 zero"
      : terms.map(([name, factor]) => ` ${factor < 0 ? "-" : "+"} ${number(Math.abs(factor))} ${name}`).join("\n");
  const lines = ["Minimize", ` objective:${expression(minimise)}`, "Subject To"];
  rows.forEach(({ terms, sense, rhs }, i) => {
    lines.push(` r${i}:${expression(terms)} ${sense} ${number(rhs)}`);
  });
  if (binaries.length > 0) lines.push("Binary", ...binaries.map((name) => ` ${name}`));
  lines.push("End");
  return lines.join("\n");
}

function number(value: number): string {
  return Number.isInteger(value) ? String(value) : value.toPrecision(15);
}
