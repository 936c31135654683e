// The `enodia` command: finds the subcommand and hands over the rest of the line. One file per command in commands/.
// Composition root of the CLI; commands are loaded lazily so that `enodia chat` does not load a compute backend.
import { AppError } from "../../crds/common.ts";
import { showsTraces } from "./environment.ts";

interface Command {
  readonly summary: string;
  readonly load: () => Promise<{ run(args: readonly string[]): Promise<number> }>;
}

const commands: Readonly<Record<string, Command>> = {
  status: { summary: "show deployments: ranks, memory, imbalance, what the planner thinks", load: () => import("./commands/status.ts") },
  rollout: { summary: "how far a roll is; pause it, go on, or take it back", load: () => import("./commands/rollout.ts") },
  chat: { summary: "talk to a deployment", load: () => import("./commands/chat.ts") },
  model: { summary: "import, upcycle and inspect models", load: () => import("./commands/model.ts") },
  data: { summary: "import text to train on", load: () => import("./commands/data.ts") },
  train: { summary: "train a model on this machine, look at training jobs", load: () => import("./commands/train.ts") },
  runtime: { summary: "test this machine's compute device", load: () => import("./commands/runtime.ts") },
  plan: { summary: "explain, record and simulate expert placement", load: () => import("./commands/plan.ts") },
};

function usage(): string {
  const rows = Object.entries(commands).map(([name, command]) => `  ${name.padEnd(8)} ${command.summary}`);
  return [
    "usage: enodia <command> [options]        in a checkout: npm run -s enodia -- <command> [options]",
    "",
    ...rows,
    "",
    "enodia <command> --help tells more about one command.",
    "status, rollout, train status|loss|trace|serve and plan explain|record read a cluster through your kubeconfig; chat needs the URL of a gateway; the rest works offline.",
    "ENODIA_LOG_LEVEL=debug adds stack traces to errors.",
  ].join("\n");
}

async function main(argv: readonly string[]): Promise<number> {
  const [name, ...rest] = argv;
  if (name === undefined || name === "--help" || name === "-h" || name === "help") {
    process.stdout.write(`${usage()}\n`);
    return name === undefined ? 2 : 0;
  }
  const command = commands[name];
  if (!command) {
    process.stderr.write(`enodia: unknown command "${name}"\n\n${usage()}\n`);
    return 2;
  }
  return (await command.load()).run(rest);
}

/** The words of node:util on an option it does not know, without its lecture on positional arguments. */
function misused(caught: unknown): string | undefined {
  const { code, message } = caught as NodeJS.ErrnoException;
  return code?.startsWith("ERR_PARSE_ARGS") ? `${message.split(/\. |\n/)[0]}; --help lists the options` : undefined;
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (caught) {
  const error = AppError.from(caught);
  process.stderr.write(`enodia: ${misused(caught) ?? error.message}\n`);
  if (showsTraces()) process.stderr.write(`${error.stack}\n${String(error.cause ?? "")}\n`);
  process.exitCode = 1;
}
