// `npm run bench -- <name>`: finds the benchmark, runs it, prints its rows as a table or as JSON. Figures are of this machine
// at this moment; each benchmark measures its own limit or baseline in the same run.
import { loadavg } from "node:os";
import { AppError } from "../../crds/common.ts";
import { type Bench, benches, verdict } from "./index.ts";

function usage(): string {
  const rows = Object.entries(benches).map(([name, { summary }]) => `  ${name.padEnd(12)} ${summary}`);
  return [
    "usage: npm run bench -- <name> [--json] [--strict] [options of the benchmark]",
    "",
    ...rows,
    "",
    "npm run bench -- <name> --help lists its options. --json prints rows as JSON. --strict exits with 1 when a row misses what it",
    "must reach. Figures are of this machine at this moment:",
    "close what else runs; the load average before is printed.",
  ].join("\n");
}

function usageOf(name: string, { summary, options = [] }: Bench): string {
  const known = [
    ...options,
    "--json         rows as JSON on standard output",
    "--strict       exit code 1 when a row misses what it must reach",
  ];
  return [`usage: npm run bench -- ${name} [options]`, "", summary, "", ...known.map((line) => `  ${line}`)].join("\n");
}

async function main(argv: readonly string[]): Promise<number> {
  const [name, ...rest] = argv;
  if (name === undefined || name === "--help" || name === "-h") {
    process.stdout.write(`${usage()}\n`);
    return name === undefined ? 2 : 0;
  }
  const bench = benches[name];
  if (!bench) {
    process.stderr.write(`bench: no benchmark "${name}"\n\n${usage()}\n`);
    return 2;
  }
  if (rest.includes("--help") || rest.includes("-h")) {
    process.stdout.write(`${usageOf(name, bench)}\n`);
    return 0;
  }
  const load = loadavg()[0] ?? 0;
  process.stderr.write(`load average before: ${load.toFixed(1)}${load > 0.5 ? " (this machine is not quiet: figures are too low)" : ""}\n`);
  const run = await bench.load();
  const rows = await run(rest.filter((arg) => arg !== "--json" && arg !== "--strict"));
  if (rest.includes("--json")) process.stdout.write(`${JSON.stringify(rows)}\n`);
  else console.table(rows);
  const { said, code } = verdict(rows, rest.includes("--strict"));
  process.stderr.write(said);
  return code;
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (caught) {
  const { code, message } = AppError.from(caught);
  process.stderr.write(`bench: ${message}\n`);
  process.exitCode = code === "InvalidOption" ? 2 : 1;
}
