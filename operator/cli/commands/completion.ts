// `enodia completion`: prints a shell's script, and answers the scripts and kubectl. DECISIONS.md 4.
import { parseArgs } from "node:util";
import { z } from "zod";
import { AppError } from "../../../crds/common.ts";
import { resources } from "../../kube/kube.ts";
import { argument, type Declaration, declare, type Entry, type NamedKind } from "../command.ts";
import { candidates } from "../command-tree.ts";
import { openCluster } from "../kube.ts";

const namesMsMax = 2_000;
const namesMax = 500;

export const completionOf = (root: Entry): Declaration =>
  declare({
    about: `Prints a script that completes commands, options and names of objects:

  bash   source <(enodia completion bash)       in ~/.bashrc
  zsh    source <(enodia completion zsh)        in ~/.zshrc, after compinit
  fish   enodia completion fish | source        in ~/.config/fish/config.fish

kubectl completes "kubectl enodia ..." by itself where kubectl_complete-enodia is on PATH, as it is beside enodia.`,
    arguments: [
      argument("<shell>", `${Object.keys(scripts).join(", ")}; or, for their scripts and kubectl, words and kubectl`),
      argument("[line...]", "words and kubectl: the line to complete"),
    ],
    options: {},
    passThrough: true,
    action(_, shell, line) {
      if (shell === "words" || shell === "kubectl") return complete(root, shell, line);
      const script = Object.hasOwn(scripts, shell) ? scripts[shell] : undefined;
      if (script === undefined) throw new AppError(`name the shell: ${Object.keys(scripts).join(", ")}`, { code: "BadOption" });
      process.stdout.write(`${script}\n`);
      return 0;
    },
  });

async function complete(root: Entry, by: "words" | "kubectl", line: readonly string[]): Promise<number> {
  const found = await candidatesFor(root, line);
  // The last line is a directive of cobra's: 4 is "no files".
  process.stdout.write([...found, ...(by === "kubectl" ? [found.length > 0 ? ":4" : ":0"] : []), ""].join("\n"));
  return 0;
}

async function candidatesFor(root: Entry, line: readonly string[]): Promise<string[]> {
  const { candidates: known, names } = await candidates(root, line);
  const current = line.at(-1) ?? "";
  const kinds = current.startsWith("-") ? [] : (Object.entries(names ?? {}) as [NamedKind, string][]);
  const found = await Promise.all(kinds.map(async ([kind, before]) => (await namesOf(kind, line)).map((name) => `${before}${name}`)));
  return [...known, ...found.flat()].filter((word) => word.startsWith(current));
}

/** The typed line may name another cluster or namespace. */
const clusterFlags = { kubeconfig: { type: "string" }, context: { type: "string" }, namespace: { type: "string", short: "n" } } as const;
const listSchema = z.object({ items: z.array(z.object({ metadata: z.object({ name: z.string() }) })) });

async function namesOf(kind: NamedKind, line: readonly string[]): Promise<string[]> {
  try {
    const { values } = parseArgs({ args: [...line], options: clusterFlags, strict: false, allowPositionals: true });
    const { transport, namespace } = openCluster(values as Readonly<Record<string, string | undefined>>);
    const { apiVersion, plural } = resources[kind];
    const path = `/apis/${apiVersion}/namespaces/${encodeURIComponent(namespace)}/${plural}?limit=${namesMax}`;
    const answer = await transport.request({ method: "GET", path, signal: AbortSignal.timeout(namesMsMax) });
    return listSchema.parse(JSON.parse(answer)).items.map(({ metadata }) => metadata.name);
  } catch {
    return []; // a prompt shows no errors
  }
}

/** The scripts call `enodia completion words LINE`; without an answer, shells complete files. */
export const scripts: Readonly<Record<string, string>> = {
  bash: `# bash completion of enodia: source <(enodia completion bash)
_enodia() {
  local word
  COMPREPLY=()
  while IFS= read -r word; do
    [[ $word == "\${COMP_WORDS[COMP_CWORD]}"* ]] && COMPREPLY+=("$word")
  done < <(enodia completion words "\${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -o default -F _enodia enodia`,
  zsh: `#compdef enodia
# zsh completion of enodia: source <(enodia completion zsh), after compinit
_enodia() {
  local -a found
  found=("\${(@f)$(enodia completion words "\${(@)words[2,CURRENT]}" 2>/dev/null)}")
  if [[ -n \${found[1]} ]]; then compadd -- "\${found[@]}"; else _files; fi
}
compdef _enodia enodia`,
  fish: `# fish completion of enodia: enodia completion fish | source
function __enodia_words
  set -l before (commandline -opc)
  set -l current (commandline -ct)
  enodia completion words $before[2..-1] "$current" 2>/dev/null
end
complete -c enodia -a '(__enodia_words)'`,
};
