// Mixed-integer programs through HiGHS: the oracle for small instances. The only file that knows the solver; callers
// describe rows and columns as data. Between calls only the loaded solver is kept, which knows no program.
import highsModule from "highs";
import { AppError } from "../../crds/common.ts";

type Terms = readonly (readonly [name: string, factor: number])[];

export interface Program {
  readonly minimise: Terms;
  readonly rows: readonly { readonly terms: Terms; readonly sense: "<=" | ">=" | "="; readonly rhs: number }[];
  /** Names of 0/1 columns; all others are real numbers >= 0. */
  readonly binaries: readonly string[];
}

export interface SolveOptions {
  /** Branch-and-bound nodes at most. A limit of work, not of time: the same program gives the same answer on any machine. */
  readonly nodes: number;
  /** Relative distance from the optimum that is good enough. */
  readonly gap: number;
}

/** A solution within the gap of the optimum. */
export interface Solution {
  readonly objective: number;
  value(name: string): number;
}

// The package's types describe its CommonJS form; the ES module that Node loads has the function as its default.
const loadHighs = highsModule as unknown as typeof highsModule.default;

let engine: ReturnType<typeof loadHighs> | undefined;

/** Against a program that never ends; far above what the node limits of callers need. */
const secondsMax = 60;

/** undefined when there is no solution, or none was proven within the limit. */
export async function solve(program: Program, options: SolveOptions): Promise<Solution | undefined> {
  engine ??= loadHighs();
  let found: ReturnType<Awaited<typeof engine>["solve"]>;
  try {
    found = (await engine).solve(lpText(program), {
      mip_max_nodes: options.nodes,
      time_limit: secondsMax,
      mip_rel_gap: options.gap,
      output_flag: false,
    });
  } catch (cause) {
    // Its memory is in an unknown state, or it was never loaded: the next program gets another one.
    engine = undefined;
    throw new AppError(`the solver failed: ${String(cause)}`, { code: "SolverFailed", operation: "solving a program", cause });
  }
  if (found.Status !== "Optimal") return undefined;
  const columns = found.Columns as Readonly<Record<string, { readonly Primal?: number }>>;
  return { objective: found.ObjectiveValue, value: (name) => columns[name]?.Primal ?? 0 };
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
