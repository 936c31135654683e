// `npm run test:sim`: the fault search over a thousand seeds in each of its modes, on as many cores as there are. Prints where it is,
// every broken promise with its seed, and a count; exits with 1 if there is one.
//   npm run test:sim [-- SEEDS [FIRST [MODE...]]]
import { fork } from "node:child_process";
import { availableParallelism } from "node:os";
import { type FaultRun, faultRun } from "./faults.ts";
import { kvRun } from "./kv.ts";
import { leadersRun } from "./leaders.ts";
import { crawl } from "./plants.ts";
import { trainingRun } from "./training.ts";

const modes: Readonly<Record<string, (seed: number) => Promise<FaultRun>>> = {
  default: (seed) => faultRun(seed),
  "no-spare": (seed) => faultRun(seed, { noSpare: true }),
  expertReplicas: (seed) => faultRun(seed, { minExpertReplicas: 2 }),
  resize: (seed) => faultRun(seed, { also: ["resize"] }),
  oversubscribed: (seed) => faultRun(seed, { oversubscribed: true, also: ["resize"] }),
  crawl: (seed) => faultRun(seed, { only: crawl }),
  training: trainingRun,
  kv: kvRun,
  leaders: leadersRun,
};
const seedsDefault = 1_000;
const progressEvery = 100;
const detailsMax = 3;
const childArgument = "--child";

interface Job {
  readonly mode: string;
  readonly seed: number;
}

interface Done extends Job {
  readonly run: FaultRun;
}

function jobsOf(argv: readonly string[]): Job[] {
  const [seeds = String(seedsDefault), first = "1", ...named] = argv;
  const chosen = named.length > 0 ? named : Object.keys(modes);
  const bad = chosen.find((mode) => !(mode in modes));
  const numbers = [Number(seeds), Number(first)] as const;
  if (bad !== undefined || !numbers.every((n) => Number.isSafeInteger(n) && n > 0))
    throw new Error(`usage: npm run test:sim [-- SEEDS [FIRST [MODE...]]], modes: ${Object.keys(modes).join(", ")}`);
  return chosen.flatMap((mode) => Array.from({ length: numbers[0] }, (_, i) => ({ mode, seed: numbers[1] + i })));
}

/** A process runs one job after another: virtual time takes the timers of all of it. */
function startProcess(jobs: Job[], onDone: (done: Done) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = fork(import.meta.filename, [childArgument], { execArgv: ["--disable-warning=ExperimentalWarning"] });
    let job: Job | undefined;
    const next = () => {
      job = jobs.shift();
      if (job) child.send(job);
      else child.disconnect();
    };
    child.on("message", (done: Done) => {
      onDone(done);
      next();
    });
    child.on("error", reject);
    child.on("exit", (code) => (job ? reject(new Error(`${job.mode}, seed ${job.seed}: the process ended with ${code}`)) : resolve()));
    next();
  });
}

async function search(argv: readonly string[]): Promise<number> {
  const jobs = jobsOf(argv);
  const all = jobs.length;
  const total = { runs: 0, bad: 0, epochs: 0, done: 0, failed: 0 };
  const startedAt = Date.now();
  const onDone = ({ mode, seed, run }: Done): void => {
    total.runs++;
    total.epochs += run.epochs;
    total.done += run.steps.done;
    total.failed += run.steps.failed;
    if (run.faults.length > 0) {
      total.bad++;
      process.stdout.write(`${mode}, seed ${seed}: ${run.faults.slice(0, detailsMax).join("; ")}\n`);
      if (total.bad <= detailsMax) process.stdout.write(`  ${run.log.join(" ")}\n`);
    }
    if (total.runs % progressEvery === 0)
      process.stdout.write(`${total.runs} of ${all}, ${Math.round((Date.now() - startedAt) / 1000)} s, ${total.bad} with faults\n`);
  };
  await Promise.all(Array.from({ length: Math.min(availableParallelism(), all) }, () => startProcess(jobs, onDone)));
  const { runs, bad, epochs, done, failed } = total;
  process.stdout.write(
    `${runs} runs, ${epochs} plans or worlds, ${done} steps made and ${failed} given up in trouble, ${bad} runs with faults\n`,
  );
  return bad > 0 || runs < all ? 1 : 0;
}

if (process.argv[2] === childArgument)
  process.on("message", ({ mode, seed }: Job) => {
    void modes[mode]!(seed).then((run) => process.send?.({ mode, seed, run } satisfies Done));
  });
else process.exitCode = await search(process.argv.slice(2));
