// `npm run test:fuzz`: every fuzzer with its part of so many inputs, or some of them. Ends with 1 where something was found, and says how
// to repeat it.
import { parseArgs } from "node:util";
import type { AnyFuzzer } from "./fuzzer.ts";
import { fuzzers } from "./index.ts";
import { type Report, runJobs } from "./run.ts";

const usage = `usage: npm run test:fuzz -- [--inputs N] [--seed N] [--only NAME,...] [--from N]

Tries N inputs in all (100000), the same for a seed (1). --only takes some of: ${fuzzers.map(({ name }) => name).join(", ")}.
--from begins with that input of each, to repeat a finding: --only NAME --seed SEED --from AT --inputs 1.`;

interface Run {
  readonly inputs: number;
  readonly seed: number;
  readonly from: number;
  readonly chosen: readonly AnyFuzzer[];
}

function readRun(argv: string[]): Run {
  const options = { inputs: { type: "string" }, seed: { type: "string" }, only: { type: "string" }, from: { type: "string" } } as const;
  const { values } = parseArgs({ args: argv, options });
  const whole = (name: keyof typeof options, otherwise: number): number => {
    const value = Number(values[name] ?? otherwise);
    if (!Number.isSafeInteger(value) || value < 0) throw new Error(`--${name} must be a whole number`);
    return value;
  };
  const names = values.only?.split(",");
  const unknown = names?.find((name) => !fuzzers.some((one) => one.name === name));
  if (unknown !== undefined) throw new Error(`--only ${unknown}: there is no such fuzzer`);
  const chosen = fuzzers.filter(({ name }) => names === undefined || names.includes(name));
  return { inputs: whole("inputs", 100_000), seed: whole("seed", 1), from: whole("from", 0), chosen };
}

function row({ job, counts, seconds, growthBytes, finding }: Report): string {
  const { taken, refused } = counts;
  const perSecond = Math.round((taken + refused) / Math.max(seconds, 0.001));
  const numbers = [job.count, taken, refused, perSecond, `${Math.round(growthBytes / 2 ** 20)} MiB`, `${seconds.toFixed(0)} s`];
  return [job.name.padEnd(16), ...numbers.map((one) => String(one).padStart(10)), finding ? `  ${finding.kind}` : ""].join("");
}

async function main({ inputs, seed, from, chosen }: Run): Promise<boolean> {
  const shares = chosen.reduce((sum, { share }) => sum + share, 0);
  const say = (line: string) => void process.stdout.write(`${line}\n`);
  say(["fuzzer".padEnd(16), ...["inputs", "taken", "refused", "a second", "memory", "time"].map((one) => one.padStart(10))].join(""));
  const jobs = chosen.map(({ name, share, deadlineMs }) => {
    return { name, deadlineMs, seed, from, count: Math.ceil((inputs * share) / shares), plantedInputs: 0 };
  });
  let [found, tried] = [0, 0];
  await runJobs(jobs, (report) => {
    tried += report.counts.taken + report.counts.refused;
    say(row(report));
    if (report.finding === undefined) return;
    found += 1;
    const { kind, at, what, input } = report.finding;
    say(`\n${kind} at input ${at}: ${what}\ninput: ${input}`);
    say(`repeat: npm run test:fuzz -- --only ${report.job.name} --seed ${seed} --from ${at} --inputs 1\n`);
  });
  say(`\n${tried} inputs, ${found} findings`);
  return found === 0;
}

try {
  process.exitCode = (await main(readRun(process.argv.slice(2)))) ? 0 : 1;
} catch (caught) {
  process.stderr.write(`${caught instanceof Error ? caught.message : caught}\n\n${usage}\n`);
  process.exitCode = 2;
}
