// The chart of this version as later releases keep it: its files, its folder, and whether what is kept there is the chart as it is now.
import { existsSync, globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import packageJson from "../../package.json" with { type: "json" };

export const chartFolder = join(import.meta.dirname, "../../charts/enodia");
export const keptFolder = join(import.meta.dirname, "releases", `v${packageJson.version}`);

/** Files of a chart that an install is made of; others are for tests, or pages to read. */
const chartFiles = (chart: string): string[] =>
  globSync(["*.yaml", "*.json", ".helmignore", "{templates,dashboards,rules}/**/*.*"], { cwd: chart }).sort();

/** The files of the chart with their content, to be kept or compared. */
export function contentOf(chart: string): Map<string, string> {
  return new Map(chartFiles(chart).map((file) => [file, readFileSync(join(chart, file), "utf8")]));
}

export function isKept(): boolean {
  const kept = join(keptFolder, "chart");
  if (!existsSync(kept)) return false;
  const [was, is] = [contentOf(kept), contentOf(chartFolder)];
  return was.size === is.size && [...is].every(([file, content]) => was.get(file) === content);
}
