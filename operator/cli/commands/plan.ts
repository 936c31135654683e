// `enodia plan`: finds the subcommand. simulate and generate work offline; record and explain read a running deployment.
import type { Commands } from "../command.ts";

export const subcommands: Commands = {
  explain: {
    summary: "why a deployment's experts are where they are, or do not move",
    names: { moeDeployments: "" },
    load: () => import("./plan-explain.ts"),
  },
  record: {
    summary: "save a trace of the load of a running deployment",
    names: { moeDeployments: "" },
    load: () => import("./plan-record.ts"),
  },
  simulate: { summary: "run policies over a trace and compare them", load: () => import("./plan-simulate.ts") },
  generate: { summary: "write a synthetic trace", load: () => import("./plan-generate.ts") },
};

export async function run(args: readonly string[]): Promise<number> {
  const [name, ...rest] = args;
  const usage = [
    "usage: enodia plan <command> [options]",
    "",
    ...Object.entries(subcommands).map(([key, { summary }]) => `  ${key.padEnd(9)} ${summary}`),
    "",
    "simulate and generate work offline; explain and record read a running deployment.",
    "enodia plan <command> --help tells more about one.",
  ].join("\n");
  if (name === undefined || name === "--help" || name === "-h") {
    process.stdout.write(`${usage}\n`);
    return name === undefined ? 2 : 0;
  }
  const subcommand = subcommands[name];
  if (!subcommand) {
    process.stderr.write(`enodia plan: unknown command "${name}"\n\n${usage}\n`);
    return 2;
  }
  return (await subcommand.load()).run(rest);
}
