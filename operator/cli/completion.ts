// Completion: the words that may come next on a line, from the registry of commands and the options of each; and the scripts by which
// shells ask for them. Pure but for the modules that it loads.
import type { ParseArgsOptionsConfig } from "node:util";
import type { Command, CommandModule, Commands, Names } from "./command.ts";
import { untoldOptions } from "./output-flag.ts";

export interface Candidates {
  readonly words: readonly string[];
  /** The kinds of which names may come too. */
  readonly names?: Names;
}

/** The candidates for the last of `line`, which is what stands there so far: an empty text where it has not begun. */
export async function candidates(commands: Commands, line: readonly string[]): Promise<Candidates> {
  const [name = "", ...rest] = line;
  if (rest.length === 0) return { words: Object.keys(commands) };
  const command = Object.hasOwn(commands, name) ? commands[name] : undefined;
  if (!command) return { words: [] };
  const module = await command.load();
  const { subcommands = {} } = module;
  const [verb = ""] = rest;
  if (!("options" in module) || (rest.length > 1 && Object.hasOwn(subcommands, verb))) return candidates(subcommands, rest);
  return ofLeaf(command, module, rest);
}

function ofLeaf(command: Command, module: Extract<CommandModule, { options: object }>, rest: readonly string[]): Candidates {
  const before = rest.slice(0, -1);
  const current = rest.at(-1) ?? "";
  if (takesValue(module.options, before.at(-1))) return { words: [] };
  if (current.startsWith("-")) return { words: optionWords(module.options) };
  const begun = before.some((word) => !word.startsWith("-"));
  const verbs = begun ? [] : [...(module.verbs ?? []), ...Object.keys(module.subcommands ?? {})];
  return command.names === undefined ? { words: verbs } : { words: verbs, names: command.names };
}

/** True of the option whose value is what comes next: a file, a number, a name that nobody else knows. */
function takesValue(options: ParseArgsOptionsConfig, word: string | undefined): boolean {
  const found = Object.entries(options).find(([name, { short }]) => word === `--${name}` || (short !== undefined && word === `-${short}`));
  return found?.[1].type === "string";
}

const optionWords = (options: ParseArgsOptionsConfig): string[] =>
  Object.keys(options).flatMap((name) => (untoldOptions.includes(name) ? [] : [`--${name}`]));

/** Shells call `enodia completion words` with the words of the line behind `enodia`; where nothing comes, they complete files. */
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
