// `enodia runtime selftest`: parses the line, runs runtime/cli/selftest.ts, and prints what it found as a table.
import { parseArgs } from "node:util";
import { AppError } from "../../../crds/common.ts";
import { type BackendChoice, backendChoices } from "../../../crds/names.ts";
import { formatBytes } from "../../../crds/quantity.ts";
import type { SelfTest } from "../../../runtime/cli/selftest.ts";

const help = `usage: enodia runtime selftest [options]

Computes every operation on this machine's device and compares it with the reference; then says how fast matrices are multiplied,
beside a plain copy of memory and a loop of multiply-adds. Exits with 1 when an operation is outside its bound.

          --backend NAME  ${backendChoices.join(", ")} (default: Auto)
          --threads N     threads of cpu (default: 1); more only where no other process computes
          --no-speed      operations only: seconds instead of a minute
          --case "OP: CASE"  that case alone, as --json names it
          --json          one JSON object on standard output

example   enodia runtime selftest --backend cpu`;

export const options = {
  backend: { type: "string", default: "Auto" },
  threads: { type: "string", default: "1" },
  case: { type: "string" },
  "no-speed": { type: "boolean", default: false },
  json: { type: "boolean", default: false },
  help: { type: "boolean", short: "h", default: false },
} as const;

export const verbs = ["selftest"];

export async function run(args: readonly string[]): Promise<number> {
  const { values, positionals } = parseArgs({ args: [...args], options, allowPositionals: true });
  if (values.help) {
    process.stdout.write(`${help}\n`);
    return 0;
  }
  if (positionals.length !== 1 || positionals[0] !== "selftest") throw new AppError(help, { code: "BadOption" });
  const { passed, selfTest } = await import("../../../runtime/cli/selftest.ts");
  const result = await selfTest({
    backend: backendOf(values.backend),
    threads: threadsOf(values.threads),
    speed: !values["no-speed"],
    only: values.case,
  });
  process.stdout.write(values.json ? `${JSON.stringify({ ...result, passed: passed(result) }, spelled)}\n` : `${text(result)}\n`);
  return passed(result) ? 0 : 1;
}

function backendOf(value: string): BackendChoice {
  const found = backendChoices.find((name) => name === value);
  if (found) return found;
  throw new AppError(`--backend is "${value}"; it must be ${backendChoices.join(", ")}`, { code: "BadOption" });
}

function threadsOf(value: string): number {
  const threads = Number(value);
  if (Number.isInteger(threads) && threads >= 1 && threads <= 512) return threads;
  throw new AppError(`--threads is "${value}"; it must be a whole number from 1 to 512`, { code: "BadOption" });
}

/** JSON has no number that is infinite. */
const spelled = (_: string, value: unknown): unknown => (value === Number.POSITIVE_INFINITY ? "infinite" : value);

/** One line an op: the worst of its cases. */
function text({ device, numericClass, memory, ops, copyGigabytesPerSecond, fmaGigaflops, products }: SelfTest): string {
  const lines = [`device   ${device}`, `class    ${numericClass}`];
  if (memory !== undefined) lines.push(`memory   ${formatBytes(memory.freeBytes)} of ${formatBytes(memory.totalBytes)} are free`);
  lines.push("", "OP             CASES  WORST ERROR  BOUND");
  for (const op of new Set(ops.map((each) => each.op))) {
    const cases = ops.filter((each) => each.op === op);
    const refused = cases.find((each) => each.refused !== undefined)?.refused;
    const worst = Math.max(...cases.map(({ error }) => error ?? 0));
    const bound = cases[0]?.bound ?? 0;
    const verdict = worst > bound ? "WRONG" : (refused ?? "ok");
    lines.push(
      `${op.padEnd(14)} ${`${cases.length}`.padStart(5)}  ${worst.toExponential(1).padStart(11)}  ${bound.toExponential(0).padEnd(6)} ${verdict}`,
    );
  }
  if (products.length === 0) return lines.join("\n");
  lines.push(
    "",
    `copy of memory: ${copyGigabytesPerSecond.toFixed(1)} GB/s read and written`,
    `multiply-adds: ${fmaGigaflops === undefined ? "no loop for this processor" : `${fmaGigaflops.toFixed(0)} GFLOP/s of one thread`}`,
    "",
    "PRODUCT                             GB/S OF WEIGHTS  OF COPY  GFLOP/S  OF MULTIPLY-ADDS",
  );
  for (const { case: name, gigabytesPerSecond, gigaflops } of products) {
    const columns = [
      gigabytesPerSecond.toFixed(1).padStart(15),
      share(gigabytesPerSecond, copyGigabytesPerSecond).padStart(7),
      gigaflops.toFixed(0).padStart(7),
      share(gigaflops, fmaGigaflops).padStart(16),
    ];
    lines.push(`${name.padEnd(35)} ${columns.join("  ")}`);
  }
  return lines.join("\n");
}

const share = (part: number, of: number | undefined): string => (of === undefined ? "-" : `${((100 * part) / of).toFixed(0)}%`);
