// `npm run test:scale`: the production operator against a real API server with a simulated fleet of nodes, with many deployments or one large
// world.
import { parseArgs } from "node:util";
import { AppError } from "../../crds/common.ts";
import { runDeployments } from "./deployments.ts";
import { stopFleets } from "./fleet.ts";
import { chartMemoryMiB } from "./operator-process.ts";
import { runPeer } from "./peer.ts";
import { runWorld } from "./world.ts";

const usage = `usage: npm run test:scale -- [--deployments N,N,...] [--at-once N] [--ranks N] [--layers N] [--experts N]
                             [--steady SECONDS] [--changes N] [--json] [--profile FOLDER]
                             [--memory MIB] [--peer]
       npm run test:scale -- world [--ranks N,N,...] [--layers N] [--experts N] [--steady SECONDS] [--json]
                             [--memory MIB] [--profile FOLDER]

Brings up etcd, the API server, its controllers and scheduler, NATS, and the operator as a process of its own, with nodes
whose pods answer the operator by production code and compute nothing; makes N deployments, of which --at-once do not
serve yet at a time (all that run here share the machine), and says what it took. The operator has the chart's memory, or what
--memory says. With --peer it makes N LeaderWorkerSets of that many pods instead, worked by their own manager, which is built
from its Go module. world makes one deployment of N ranks: what its operator takes until it serves, while nothing changes but
the load, to follow a changed load, to shrink by an eighth, and after the loss of a node of 8 ranks. Needs root.`;

const shared = {
  steady: { type: "string", default: "60" },
  memory: { type: "string", default: String(chartMemoryMiB) },
  profile: { type: "string" },
  json: { type: "boolean", default: false },
  help: { type: "boolean", short: "h", default: false },
} as const;
const ofDeployments = {
  ...shared,
  deployments: { type: "string", default: "10" },
  "at-once": { type: "string", default: "50" },
  ranks: { type: "string", default: "8" },
  layers: { type: "string", default: "16" },
  experts: { type: "string", default: "32" },
  changes: { type: "string", default: "5" },
  peer: { type: "boolean", default: false },
} as const;
const ofWorld = {
  ...shared,
  ranks: { type: "string", default: "16,64,256" },
  layers: { type: "string", default: "58" },
  experts: { type: "string", default: "256" },
} as const;

/** The first windows of load, of 30 s each, have ended by then. */
const settleSeconds = 75;
/** Of load: the default of a deployment. */
const windowSeconds = 15;
/** One rank of a world in so many leaves at the end. */
const leaving = 8;

function wholeNumber(text: string): number {
  if (/^[1-9]\d{0,3}$/.test(text)) return Number(text);
  throw new AppError(`"${text}" is no whole number from 1 to 9999`, { code: "InvalidOption" });
}

/** Prints a row for each of the numbers, with a log of what happens in seconds from its start. */
async function rows(numbers: string, json: boolean, run: (number: number, log: (line: string) => void) => Promise<object>): Promise<void> {
  for (const number of numbers.split(",").map(wholeNumber)) {
    const started = Date.now();
    const log = (line: string) => void process.stderr.write(`${((Date.now() - started) / 1000).toFixed(1).padStart(7)} s  ${line}\n`);
    process.stdout.write(`${JSON.stringify(await run(number, log), undefined, json ? 0 : 1)}\n`);
  }
}

async function world(args: string[]): Promise<void> {
  const { values } = parseArgs({ args, options: ofWorld });
  if (values.help) return void process.stdout.write(`${usage}\n`);
  const [layers, experts, steadySeconds] = [wholeNumber(values.layers), wholeNumber(values.experts), wholeNumber(values.steady)];
  const limits = { memoryMiB: wholeNumber(values.memory), profileFolder: values.profile };
  await rows(values.ranks, values.json, (ranks, log) => {
    const shape = { ranks, layers, experts, shrinkBy: Math.ceil(ranks / leaving) };
    return runWorld({ ...shape, ...limits, windowSeconds, steadySeconds, short: false, log });
  });
}

async function deployments(args: string[]): Promise<void> {
  const { values } = parseArgs({ args, options: ofDeployments });
  if (values.help) return void process.stdout.write(`${usage}\n`);
  const [ranks, steadySeconds] = [wholeNumber(values.ranks), wholeNumber(values.steady)];
  const shape = { ranks, layers: wholeNumber(values.layers), experts: wholeNumber(values.experts), atOnce: wholeNumber(values["at-once"]) };
  const limits = { memoryMiB: wholeNumber(values.memory), profileFolder: values.profile };
  await rows(values.deployments, values.json, (number, log) => {
    if (values.peer) return runPeer({ objects: number, size: ranks, steadySeconds, log });
    const changes = Math.min(Number(values.changes), number);
    return runDeployments({ ...shape, ...limits, deployments: number, settleSeconds, steadySeconds, changes, log });
  });
}

for (const signal of ["SIGINT", "SIGTERM"] as const)
  process.once(signal, () => {
    process.stderr.write("stopping what was started\n");
    void stopFleets().finally(() => process.exit(130));
  });

const [what, ...args] = process.argv.slice(2);
await (what === "world" ? world(args) : deployments(process.argv.slice(2)));
process.exit();
