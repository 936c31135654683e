import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { argument, choice, type Declaration, type Entry, flag, hidden, type Names, text } from "./command.ts";
import { candidates } from "./command-tree.ts";
import { scripts } from "./commands/completion.ts";
import { enodia } from "./registry.ts";

const leaf = (names?: Names): Declaration => ({
  about: "",
  arguments: names === undefined ? [] : [argument("[name]", "", names)],
  options: { namespace: text("-n, --namespace <name>", ""), watch: flag("-w, --watch", ""), json: hidden(flag("--json", "")) },
  action: () => 0,
});
const load = async () => leaf();
const planted: Entry = {
  summary: "",
  commands: {
    look: { summary: "", load: async () => leaf({ moeDeployments: "" }) },
    both: {
      summary: "",
      load: async () => ({ about: "", options: { all: flag("--all", ""), way: choice("--way <name>", "", ["a", "b"]) }, action: () => 0 }),
      commands: { one: { summary: "", load } },
    },
    deep: { summary: "", commands: { er: { summary: "", load } } },
  },
};

const cases: Readonly<Record<string, { readonly line: readonly string[]; readonly want: unknown }>> = {
  "commands come first": { line: [""], want: { candidates: ["look", "both", "deep"] } },
  "names of objects": { line: ["look", ""], want: { candidates: [], names: { moeDeployments: "" } } },
  "options, once a dash is there": { line: ["look", "-"], want: { candidates: ["--namespace", "--watch", "--help"] } },
  "nothing where a value is due": { line: ["look", "-n", ""], want: { candidates: [] } },
  "nor behind the long name": { line: ["look", "--namespace", ""], want: { candidates: [] } },
  "names again behind a switch": { line: ["look", "-w", ""], want: { candidates: [], names: { moeDeployments: "" } } },
  "the choices of a value": { line: ["both", "--way", ""], want: { candidates: ["a", "b"] } },
  subcommands: { line: ["deep", ""], want: { candidates: ["er"] } },
  "their options": { line: ["deep", "er", "--"], want: { candidates: ["--namespace", "--watch", "--help"] } },
  "a verb with options of its own": { line: ["both", ""], want: { candidates: ["one"] } },
  these: { line: ["both", "one", "-"], want: { candidates: ["--namespace", "--watch", "--help"] } },
  "those without it": { line: ["both", "-"], want: { candidates: ["--all", "--way", "--help"] } },
  "nothing of a command that there is not": { line: ["toString", ""], want: { candidates: [] } },
};
for (const [name, { line, want }] of Object.entries(cases))
  test(`completion: ${name}`, async () => assert.deepEqual(await candidates(planted, line), want));

test("the file of each command of the registry loads, and declares options that commander takes", async () => {
  const all = async ({ commands = {} }: Entry, before: readonly string[]): Promise<readonly string[]> => {
    const found = await Promise.all(Object.entries(commands).map(([name, entry]) => all(entry, [...before, name])));
    const { candidates: options } = await candidates(enodia, [...before, "-"]);
    assert.ok(options.includes("--help"), before.join(" "));
    return [before.join(" "), ...found.flat()];
  };
  const known = await all(enodia, []);
  for (const name of ["status", "plan explain", "rollout undo", "model import", "train status", "runtime selftest", "completion"])
    assert.ok(known.includes(name), name);
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
