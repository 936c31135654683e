// `enodia runtime selftest`: runs the self test and prints its results as a table.
import { backendChoices } from "../../../crds/names.ts";
import { formatBytes } from "../../../crds/quantity.ts";
import type { SelfTest } from "../../../runtime/cli/selftest.ts";
import { choice, declare, flag, text, value } from "../command.ts";
import { whole } from "../options.ts";
import { table } from "../table.ts";

export const command = declare({
  about:
    "Computes every operation on this machine's device and compares it with the reference; then says how fast matrices are multiplied, beside a plain copy of memory and a loop of multiply-adds. Exits with 1 when an operation is outside its bound.",
  options: {
    backend: choice("--backend <name>", "the device", backendChoices, "Auto"),
    threads: value("--threads <number>", "threads of cpu; more than 1 only where no other process computes", whole(1, 512), 1),
    noSpeed: flag("--no-speed", "operations only: seconds instead of a minute"),
    case: text("--case <case>", '"OP: CASE", that case alone, as --json names it'),
    json: flag("--json", "one JSON object on standard output"),
  },
  notes: "example   enodia runtime selftest --backend cpu",
  async action({ backend, threads, noSpeed, case: only, json }) {
    const { passed, selfTest } = await import("../../../runtime/cli/selftest.ts");
    const result = await selfTest({ backend, threads, speed: !noSpeed, only });
    process.stdout.write(json ? `${JSON.stringify({ ...result, passed: passed(result) }, spelled)}\n` : `${selfTestText(result)}\n`);
    return passed(result) ? 0 : 1;
  },
});

/** JSON has no infinity. */
const spelled = (_: string, value: unknown): unknown => (value === Number.POSITIVE_INFINITY ? "infinite" : value);

/** One line per op, with its worst case. */
function selfTestText({ device, numericClass, memory, ops, copyGigabytesPerSecond, fmaGigaflops, products }: SelfTest): string {
  const lines = [`device   ${device}`, `class    ${numericClass}`];
  if (memory !== undefined) lines.push(`memory   ${formatBytes(memory.freeBytes)} of ${formatBytes(memory.totalBytes)} are free`);
  const rows = [...Map.groupBy(ops, ({ op }) => op)].map(([op, cases]) => {
    const worst = Math.max(...cases.map(({ error }) => error ?? 0));
    const bound = cases[0]?.bound ?? 0;
    const result = worst > bound ? "WRONG" : (cases.find(({ refused }) => refused !== undefined)?.refused ?? "ok");
    return [op, `${cases.length}`, worst.toExponential(1), bound.toExponential(0), result];
  });
  lines.push("", table(["OP", "CASES", "WORST ERROR", "BOUND", "RESULT"], rows));
  if (products.length === 0) return lines.join("\n");
  const speeds = products.map(({ case: name, gigabytesPerSecond, gigaflops }) => [
    name,
    gigabytesPerSecond.toFixed(1),
    partOf(gigabytesPerSecond, copyGigabytesPerSecond),
    gigaflops.toFixed(0),
    partOf(gigaflops, fmaGigaflops),
  ]);
  lines.push(
    "",
    `copy of memory: ${copyGigabytesPerSecond.toFixed(1)} GB/s read and written`,
    `multiply-adds: ${fmaGigaflops === undefined ? "no loop for this processor" : `${fmaGigaflops.toFixed(0)} GFLOP/s of one thread`}`,
    "",
    table(["PRODUCT", "GB/S OF WEIGHTS", "OF COPY", "GFLOP/S", "OF MULTIPLY-ADDS"], speeds),
  );
  return lines.join("\n");
}

const partOf = (part: number, of: number | undefined): string => (of === undefined ? "-" : `${((100 * part) / of).toFixed(0)}%`);
