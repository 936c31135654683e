// The shell scripts that keep a cluster's programs running, and the programs' arguments. Pure: it starts nothing.

export interface Program {
  readonly name: string;
  readonly command: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** A socket or file that must exist first. */
  readonly after?: string;
}

export interface Supervisor {
  readonly logs: string;
  /** Shell lines run once before the programs. */
  readonly prepare?: readonly string[];
  readonly programs: readonly Program[];
}

export const quote = (word: string): string => (/^[A-Za-z0-9_./:=@,+-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`);

/** A program that ends is started again after a second, as systemd would; everything it says goes to <logs>/<name>.log. */
export function supervisorScript(options: Supervisor): string {
  const lines = options.programs.map((program) => {
    const env = Object.entries(program.env ?? {}).map(([key, value]) => `${key}=${quote(value)}`);
    const words = [...(env.length === 0 ? [] : ["env", ...env]), ...program.command.map(quote)];
    const wait = program.after === undefined ? "" : `until [ -e ${quote(program.after)} ]; do sleep 0.05; done; `;
    return `{ ${wait}keep ${quote(program.name)} ${words.join(" ")}; } &`;
  });
  return `#!/bin/bash
# Written by the local cluster; changes are lost at the next start.
set -u
logs=${quote(options.logs)}
mkdir -p "$logs"
keep() {
  local name="$1"; shift
  while :; do
    "$@" >> "$logs/$name.log" 2>&1
    echo "supervisor: $name ended with exit code $?, started again in 1 s" >> "$logs/$name.log"
    sleep 1
  done
}
${(options.prepare ?? []).map((line) => `${line} || exit 1\n`).join("")}${lines.join("\n")}
wait
`;
}

/** `{a: 'b'}` -> `--a=b`. */
export const flags = (values: Readonly<Record<string, string | number | boolean>>): string[] =>
  Object.entries(values).map(([key, value]) => `--${key}=${value}`);
