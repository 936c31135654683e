#!/usr/bin/env node
// The `enodia` command, and `kubectl enodia`: finds the subcommand (registry.ts) and hands over the rest of the line.
// Composition root of the CLI.
import { basename } from "node:path";
import { AppError } from "../../crds/common.ts";
import type { Command } from "./command.ts";
import { showsTraces } from "./environment.ts";
import { commands } from "./registry.ts";
import { version } from "./version.ts";

function usage(): string {
  const width = Math.max(...Object.keys(commands).map((name) => name.length));
  const rows = Object.entries(commands).map(([name, command]) => `  ${name.padEnd(width)}  ${command.summary}`);
  return [
    "usage: enodia <command> [options]        as a plugin: kubectl enodia <command>; in a checkout: npm run -s enodia -- <command>",
    "",
    ...rows,
    "",
    "enodia <command> --help tells more about one command; enodia --version says which this is.",
    "status, rollout, doctor, top, experts, logs, bundle, plan explain and record, and train on jobs read a cluster through your kubeconfig;",
    "chat needs the URL of a gateway; the rest works offline.",
    "ENODIA_LOG_LEVEL=debug adds stack traces to errors.",
  ].join("\n");
}

async function main(argv: readonly string[]): Promise<number> {
  const [name, ...rest] = argv;
  if (name === undefined || name === "--help" || name === "-h" || name === "help") {
    process.stdout.write(`${usage()}\n`);
    return name === undefined ? 2 : 0;
  }
  if (name === "--version") {
    process.stdout.write(`${version}\n`);
    return 0;
  }
  const command: Command | undefined = Object.hasOwn(commands, name) ? commands[name] : undefined;
  if (!command) {
    process.stderr.write(`enodia: unknown command "${name}"\n\n${usage()}\n`);
    return 2;
  }
  return (await command.load()).run(rest);
}

/** The oldest Node that runs this; a checkout brings its own (bootstrap.mjs). */
const nodeMajor = 24;

/** kubectl asks the program of this name for the words that may come next in `kubectl enodia ...`. */
const kubectlAsks = "kubectl_complete-enodia";

/** The words of node:util on an option it does not know, without its lecture on positional arguments. */
function misused(caught: unknown): string | undefined {
  const { code, message } = caught as NodeJS.ErrnoException;
  return code?.startsWith("ERR_PARSE_ARGS") ? `${message.split(/\. |\n/)[0]}; --help lists the options` : undefined;
}

// A reader that has seen enough, such as head, is no fault.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code !== "EPIPE") throw error;
  process.exit(0);
});
try {
  if (Number(process.versions.node.split(".")[0]) < nodeMajor)
    throw new AppError(`Node ${process.versions.node} is too old: install Node ${nodeMajor} or newer`, { code: "NodeTooOld" });
  const [, called = "", ...line] = process.argv;
  process.exitCode = await main(basename(called) === kubectlAsks ? ["completion", "kubectl", ...line] : line);
} catch (caught) {
  const error = AppError.from(caught);
  process.stderr.write(`enodia: ${misused(caught) ?? error.message}\n`);
  if (showsTraces()) process.stderr.write(`${error.stack}\n${String(error.cause ?? "")}\n`);
  process.exitCode = 1;
}
