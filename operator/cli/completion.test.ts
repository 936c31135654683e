import assert from "node:assert/strict";
import { execFile, execFileSync } from "node:child_process";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import type { Command, Commands } from "./command.ts";
import { candidates, scripts } from "./completion.ts";
import { commands } from "./registry.ts";

const leaf = (more: Partial<Command> = {}, verbs: readonly string[] = []): Command => ({
  summary: "",
  load: async () => ({
    options: { namespace: { type: "string", short: "n" }, watch: { type: "boolean", short: "w" } },
    verbs,
    run: async () => 0,
  }),
  ...more,
});
const planted: Commands = {
  look: leaf({ names: "moeDeployments" }),
  do: leaf({}, ["begin", "end"]),
  both: {
    summary: "",
    load: async () => ({ options: { all: { type: "boolean" } }, subcommands: { one: leaf() }, run: async () => 0 }),
  },
  deep: { summary: "", load: async () => ({ subcommands: { er: leaf() }, run: async () => 0 }) },
};

const cases: Readonly<Record<string, { readonly line: readonly string[]; readonly want: unknown }>> = {
  "commands come first": { line: [""], want: { words: ["look", "do", "both", "deep"] } },
  "names of objects": { line: ["look", ""], want: { words: [], names: "moeDeployments" } },
  "options, once a dash is there": { line: ["look", "-"], want: { words: ["--namespace", "--watch"] } },
  "nothing where a value is due": { line: ["look", "-n", ""], want: { words: [] } },
  "nor behind the long name": { line: ["look", "--namespace", ""], want: { words: [] } },
  "names again behind a switch": { line: ["look", "-w", ""], want: { words: [], names: "moeDeployments" } },
  "verbs come before all else": { line: ["do", ""], want: { words: ["begin", "end"] } },
  "and only there": { line: ["do", "begin", ""], want: { words: [] } },
  subcommands: { line: ["deep", ""], want: { words: ["er"] } },
  "their options": { line: ["deep", "er", "--"], want: { words: ["--namespace", "--watch"] } },
  "a verb with options of its own": { line: ["both", ""], want: { words: ["one"] } },
  these: { line: ["both", "one", "-"], want: { words: ["--namespace", "--watch"] } },
  "those without it": { line: ["both", "-"], want: { words: ["--all"] } },
  "nothing of a command that there is not": { line: ["toString", ""], want: { words: [] } },
};
for (const [name, { line, want }] of Object.entries(cases))
  test(`completion: ${name}`, async () => assert.deepEqual(await candidates(planted, line), want));

/** Each command of the registry with the words that lead to it. */
async function all(from: Commands, before: readonly string[] = []): Promise<readonly { words: readonly string[]; options: string[] }[]> {
  const found = await Promise.all(
    Object.entries(from).map(async ([name, command]) => {
      const words = [...before, name];
      const module = await command.load();
      const inner = await all(module.subcommands ?? {}, words);
      return "options" in module ? [{ words, options: Object.keys(module.options) }, ...inner] : inner;
    }),
  );
  return found.flat();
}

test("completion: each option that it offers is told by the help of its command", async () => {
  const run = promisify(execFile);
  const main = join(import.meta.dirname, "main.ts");
  const known = await all(commands);
  assert.ok(known.some(({ words }) => words.join(" ") === "train status") && known.length > 15);
  for (const { words, options } of known) {
    const { stdout } = await run(process.execPath, [main, ...words, "--help"]);
    const told = new Set([...stdout.matchAll(/(?<![\w-])--([a-z][a-z0-9-]*)/g)].map(([, name]) => name));
    const untold = options.filter((name) => name !== "help" && !told.has(name));
    assert.deepEqual(untold, [], words.join(" "));
  }
});

test("completion: bash asks with the words of the line and takes those that go on from what is typed", () => {
  const dir = mkdtempSync(join(tmpdir(), "enodia-completion-"));
  try {
    const program = join(dir, "enodia");
    writeFileSync(program, '#!/bin/sh\nprintf "%s\\n" "$*" >> "$0.asked"\nprintf "status\\nsta-r\\nother\\n"\n');
    chmodSync(program, 0o755);
    const lines = [scripts.bash, "COMP_WORDS=(enodia sta); COMP_CWORD=1; _enodia; IFS=:", 'echo "$' + '{COMPREPLY[*]}"'];
    const env = { ...process.env, PATH: `${dir}:${process.env.PATH}` };
    assert.equal(execFileSync("bash", ["-c", lines.join("\n")], { env, encoding: "utf8" }), "status:sta-r\n");
    assert.equal(execFileSync("cat", [`${program}.asked`], { encoding: "utf8" }), "completion words sta\n");
  } finally {
    rmSync(dir, { recursive: true });
  }
});
