// `enodia completion`: prints the script of a shell, and answers what these scripts, and kubectl, ask for: the words that may come next.
// Names of objects are asked of the cluster, and left out where it does not answer at once.
import { parseArgs } from "node:util";
import { z } from "zod";
import { AppError } from "../../../crds/common.ts";
import { resources } from "../../kube/kube.ts";
import type { CommandModule, Commands, NamedKind } from "../command.ts";
import { candidates, scripts } from "../completion.ts";
import { kubeFlags, openCluster } from "../kube.ts";

const usage = `usage: enodia completion ${Object.keys(scripts).join("|")}

Prints a script that completes commands, options and names of deployments:

  bash   source <(enodia completion bash)       in ~/.bashrc
  zsh    source <(enodia completion zsh)        in ~/.zshrc, after compinit
  fish   enodia completion fish | source        in ~/.config/fish/config.fish

kubectl completes "kubectl enodia ..." by itself where kubectl_complete-enodia is on PATH, as it is beside enodia.`;

const options = { help: { type: "boolean", short: "h", default: false } } as const;

/** Nobody waits longer at a prompt. */
const namesMsMax = 2_000;
const namesMax = 500;

export function completionOf(commands: Commands): CommandModule {
  return { options, verbs: Object.keys(scripts), run: (args) => run(args, commands) };
}

async function run(args: readonly string[], commands: Commands): Promise<number> {
  const [verb = "", ...line] = args;
  if (verb === "words" || verb === "kubectl") {
    const words = await wordsFor(commands, line);
    // kubectl reads a directive of cobra's from the last line: 4 is "no files".
    process.stdout.write([...words, ...(verb === "kubectl" ? [words.length > 0 ? ":4" : ":0"] : []), ""].join("\n"));
    return 0;
  }
  const { values, positionals } = parseArgs({ args: [...args], options, allowPositionals: true });
  if (values.help) {
    process.stdout.write(`${usage}\n`);
    return 0;
  }
  const [shell = ""] = positionals;
  const script = Object.hasOwn(scripts, shell) ? scripts[shell] : undefined;
  if (script === undefined) throw new AppError(`name the shell: ${Object.keys(scripts).join(", ")}`, { code: "BadOption" });
  process.stdout.write(`${script}\n`);
  return 0;
}

async function wordsFor(commands: Commands, line: readonly string[]): Promise<string[]> {
  const { words, names } = await candidates(commands, line);
  const current = line.at(-1) ?? "";
  const kinds = current.startsWith("-") ? [] : (Object.entries(names ?? {}) as [NamedKind, string][]);
  const found = await Promise.all(kinds.map(async ([kind, before]) => (await namesOf(kind, line)).map((name) => `${before}${name}`)));
  return [...words, ...found.flat()].filter((word) => word.startsWith(current));
}

const listSchema = z.object({ items: z.array(z.object({ metadata: z.object({ name: z.string() }) })) });

/** The line that is being written may name another cluster or namespace. */
async function namesOf(kind: NamedKind, line: readonly string[]): Promise<string[]> {
  try {
    const { values } = parseArgs({ args: [...line], options: kubeFlags, strict: false, allowPositionals: true });
    const text = (value: unknown) => (typeof value === "string" ? value : undefined);
    const flags = { kubeconfig: text(values.kubeconfig), context: text(values.context), namespace: text(values.namespace) };
    const { transport, namespace } = openCluster(flags);
    const { apiVersion, plural } = resources[kind];
    const path = `/apis/${apiVersion}/namespaces/${encodeURIComponent(namespace)}/${plural}?limit=${namesMax}`;
    const answer = await transport.request({ method: "GET", path, signal: AbortSignal.timeout(namesMsMax) });
    return listSchema.parse(JSON.parse(answer)).items.map(({ metadata }) => metadata.name);
  } catch {
    return []; // a prompt is no place for errors
  }
}
