// `npm run test:scale`: the production operator against a real API server with a simulated fleet of nodes.
import { parseArgs } from "node:util";
import { runDeployments } from "./deployments.ts";
import { stopFleets } from "./fleet.ts";
import { chartMemoryMiB } from "./operator-process.ts";
import { runPeer } from "./peer.ts";
import { worldMain } from "./world-main.ts";

const usage = `usage: npm run test:scale -- [--deployments N,N,...] [--at-once N] [--ranks N] [--layers N] [--experts N]
                             [--steady SECONDS] [--changes N] [--json] [--profile FOLDER]
                             [--memory MIB] [--peer]
       npm run test:scale -- world --help

Brings up etcd, the API server, its controllers and scheduler, NATS, and the operator as a process of its own, with nodes
whose pods answer the operator by production code and compute nothing; makes N deployments, of which --at-once do not
serve yet at a time (all that run here share the machine), and says what it took. The operator has the chart's memory, or what --memory says. With --peer it makes N LeaderWorkerSets of that many pods instead,
worked by their own manager, which is built from its Go module. Needs root.`;

const options = {
  deployments: { type: "string", default: "10" },
  "at-once": { type: "string", default: "50" },
  ranks: { type: "string", default: "8" },
  layers: { type: "string", default: "16" },
  experts: { type: "string", default: "32" },
  steady: { type: "string", default: "60" },
  changes: { type: "string", default: "5" },
  memory: { type: "string", default: String(chartMemoryMiB) },
  profile: { type: "string" },
  peer: { type: "boolean", default: false },
  json: { type: "boolean", default: false },
  help: { type: "boolean", short: "h", default: false },
} as const;

/** The first windows of load, of 30 s each, have ended by then. */
const settleSeconds = 75;

async function main(argv: readonly string[]): Promise<void> {
  if (argv[0] === "world") return worldMain(argv.slice(1));
  const { values } = parseArgs({ args: [...argv], options });
  if (values.help) return void process.stdout.write(`${usage}\n`);
  const number = (name: "at-once" | "ranks" | "layers" | "experts" | "steady" | "changes" | "memory"): number => Number(values[name]);
  const steadySeconds = number("steady");
  for (const deployments of values.deployments.split(",").map(Number)) {
    const started = Date.now();
    const log = (line: string) => void process.stderr.write(`${((Date.now() - started) / 1000).toFixed(1).padStart(7)} s  ${line}\n`);
    const shape = { deployments, atOnce: number("at-once"), ranks: number("ranks"), layers: number("layers"), experts: number("experts") };
    const limits = { profileFolder: values.profile, memoryMiB: number("memory") };
    const times = { settleSeconds, steadySeconds, changes: Math.min(number("changes"), deployments), log };
    const row = values.peer
      ? await runPeer({ objects: deployments, size: number("ranks"), steadySeconds, log })
      : await runDeployments(Object.assign(shape, limits, times));
    process.stdout.write(`${JSON.stringify(row, undefined, values.json ? 0 : 1)}\n`);
  }
}

for (const signal of ["SIGINT", "SIGTERM"] as const)
  process.once(signal, () => {
    process.stderr.write("stopping what was started\n");
    void stopFleets().finally(() => process.exit(130));
  });

await main(process.argv.slice(2));
process.exit();
