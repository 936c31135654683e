// `npm run bench -- planner`: the planner's acceptance table on generated traces of fixed seeds, with the in-repo EPLB and the
// exact optimum as baselines; planning times, their growth, many deployments; hops of the affinity policies.
import { AppError } from "../../crds/common.ts";
import { freshRows } from "./planner-fresh.ts";
import { hopsTable, solverRows } from "./planner-hops.ts";
import type { Row } from "./planner-kit.ts";
import { qualityRows } from "./planner-quality.ts";
import { growthTable, manyDeployments, replanRows, splitRow } from "./planner-times.ts";

const groups: Readonly<Record<string, () => Promise<readonly object[]>>> = {
  11: replanRows,
  12: async () => [await splitRow()],
  many: manyDeployments,
  solver: solverRows,
  growth: growthTable,
  hops: hopsTable,
  fresh: freshRows,
};

/** Names of rows or groups to run; none = all. */
export async function plannerBench(args: readonly string[]): Promise<readonly object[]> {
  const wanted = args.filter((arg) => !arg.startsWith("-"));
  const answersTo = (name: string): string[] => [name, name.replace(/[a-z]$/, "")];
  const known = new Set([...Object.keys(qualityRows).flatMap(answersTo), ...Object.keys(groups)]);
  const unknown = wanted.filter((name) => !known.has(name));
  if (unknown.length > 0) throw new AppError(`no row ${unknown.join(", ")}; there are ${[...known].join(", ")}`, { code: "InvalidOption" });
  const wants = (name: string): boolean => wanted.length === 0 || answersTo(name).some((answer) => wanted.includes(answer));
  const table: Row[] = [];
  const tables: (readonly object[])[] = [];
  for (const [name, run] of Object.entries(qualityRows)) {
    if (!wants(name)) continue;
    const row = await run();
    process.stderr.write(
      `${row.ok === true ? "ok  " : row.ok === false ? "MISS" : "    "} ${row.row}: ${row.what}: ${row.measured} (must: ${row.required})\n`,
    );
    table.push(row);
  }
  for (const [name, run] of Object.entries(groups)) {
    if (!wants(name)) continue;
    const rows = await run();
    tables.push(rows);
    for (const row of rows) process.stderr.write(`${JSON.stringify(row)}\n`);
  }
  return [...table, ...tables.flat()];
}
