// The test runner: `npm test` and its smaller targets. Steps run in order, cheap ones first; the last line counts tests.
//   check        generated files, types, lint, dead code       unit         *.test.ts beside the source
//   integration  *.int.test.ts: real processes on loopback     e2e          *.e2e.test.ts: the product on the local cluster
import { spawnSync } from "node:child_process";
import { globSync } from "node:fs";
import { resolve } from "node:path";
import { run } from "node:test";
import { spec } from "node:test/reporters";

const root = resolve(import.meta.dirname, "..");
const targets = ["check", "unit", "integration", "e2e", "all"] as const;
type Target = (typeof targets)[number];

interface Counts {
  passed: number;
  failed: number;
  skipped: number;
}

const usage = `usage: npm test | npm run check | npm run test:unit|test:int|test:e2e [-- <part of a file name>...]`;

/** Each check is one command; all run, so that one look shows everything that is wrong. */
const checks: readonly (readonly [name: string, ...argv: string[]])[] = [
  ["generated CRDs, chart schema, reference", "crds/generate.ts", "--check"],
  ["generated wire code", "runtime/wire/generate.ts", "--check"],
  ["generated dashboards", "operator/dashboards/generate.ts", "--check"],
  ["types", "node_modules/typescript/bin/tsc", "-p", "."],
  ["lint and format", "node_modules/@biomejs/biome/bin/biome", "ci", "--error-on-warnings", "."],
  ["unused code", "node_modules/knip/bin/knip.js", "--no-progress"],
];

function runChecks(counts: Counts): void {
  for (const [name, ...argv] of checks) {
    const started = Date.now();
    const done = spawnSync(process.execPath, argv, { cwd: root, encoding: "utf8", maxBuffer: 64 * 1024 * 1024 });
    const ok = done.status === 0;
    counts[ok ? "passed" : "failed"] += 1;
    process.stdout.write(`${ok ? "✔" : "✖"} check: ${name} (${((Date.now() - started) / 1000).toFixed(1)} s)\n`);
    if (!ok) process.stdout.write(`${done.stdout}${done.stderr}\n`);
  }
}

function testFiles(kind: "unit" | "integration" | "e2e", filters: readonly string[]): string[] {
  const all = globSync("{crds,operator,runtime,test}/**/*.test.ts", { cwd: root }).sort();
  const suffix = { integration: ".int.test.ts", e2e: ".e2e.test.ts" } as const;
  const mine = all.filter((file) =>
    kind === "unit" ? !Object.values(suffix).some((end) => file.endsWith(end)) : file.endsWith(suffix[kind]),
  );
  return mine.filter((file) => filters.length === 0 || filters.some((part) => file.includes(part))).map((file) => resolve(root, file));
}

function runFiles(files: readonly string[], concurrency: number, counts: Counts): Promise<void> {
  if (files.length === 0) return Promise.resolve();
  return new Promise((done) => {
    const stream = run({ files: [...files], concurrency, execArgv: ["--disable-warning=ExperimentalWarning"] });
    // A suite is not a test: only leaves count.
    stream.on("test:pass", (event) => {
      if (event.details.type === "suite") return;
      counts[event.skip !== undefined || event.todo !== undefined ? "skipped" : "passed"] += 1;
    });
    stream.on("test:fail", (event) => {
      if (event.details.type !== "suite") counts.failed += 1;
    });
    stream.on("end", done);
    stream.compose(spec).pipe(process.stdout, { end: false });
  });
}

async function main(argv: readonly string[]): Promise<void> {
  const [target, ...filters] = argv;
  if (!targets.includes(target as Target)) {
    process.stderr.write(`${usage}\n`);
    process.exitCode = 2;
    return;
  }
  const counts: Counts = { passed: 0, failed: 0, skipped: 0 };
  const wants = (name: Target): boolean => target === "all" || target === name;
  if (wants("check")) runChecks(counts);
  if (wants("unit")) await runFiles(testFiles("unit", filters), 2, counts);
  // One at a time: these own processes, ports and clusters.
  if (wants("integration")) await runFiles(testFiles("integration", filters), 1, counts);
  if (wants("e2e")) await runFiles(testFiles("e2e", filters), 1, counts);
  const skipped = counts.skipped > 0 ? `, ${counts.skipped} skipped` : "";
  process.stdout.write(`\n${counts.passed} passed, ${counts.failed} failed${skipped}\n`);
  process.exitCode = counts.failed === 0 && counts.passed > 0 ? 0 : 1;
}

await main(process.argv.slice(2));
