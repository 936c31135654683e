import assert from "node:assert/strict";
import { execFile, execFileSync } from "node:child_process";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import type { Command, Commands } from "./command.ts";
import { candidates, scripts } from "./completion.ts";
import { untoldOptions } from "./output-flag.ts";

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
  look: leaf({ names: { moeDeployments: "" } }),
  do: leaf({}, ["begin", "end"]),
  both: {
    summary: "",
    load: async () => ({ options: { all: { type: "boolean" } }, subcommands: { one: leaf() }, run: async () => 0 }),
  },
  deep: { summary: "", load: async () => ({ subcommands: { er: leaf() }, run: async () => 0 }) },
};

const cases: Readonly<Record<string, { readonly line: readonly string[]; readonly want: unknown }>> = {
  "commands come first": { line: [""], want: { words: ["look", "do", "both", "deep"] } },
  "names of objects": { line: ["look", ""], want: { words: [], names: { moeDeployments: "" } } },
  "options, once a dash is there": { line: ["look", "-"], want: { words: ["--namespace", "--watch"] } },
  "nothing where a value is due": { line: ["look", "-n", ""], want: { words: [] } },
  "nor behind the long name": { line: ["look", "--namespace", ""], want: { words: [] } },
  "names again behind a switch": { line: ["look", "-w", ""], want: { words: [], names: { moeDeployments: "" } } },
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

/** Runs --help of every command of the registry in one process of its own, and prints what each said beside the options that it offers. */
const helps = `
import { commands } from ${JSON.stringify(new URL("./registry.ts", import.meta.url))};
const write = process.stdout.write.bind(process.stdout);
const told = [];
const walk = async (from, before) => {
  for (const [name, command] of Object.entries(from)) {
    const words = [...before, name];
    const module = await command.load();
    let help = "";
    process.stdout.write = (text) => (help += text) !== "";
    if (module.options) await module.run(["--help"]);
    if (module.options) told.push({ words: words.join(" "), help, options: Object.keys(module.options) });
    await walk(module.subcommands ?? {}, words);
  }
};
await walk(commands, []);
write(JSON.stringify(told));
`;

test("completion: each option that it offers is told by the help of its command", async () => {
  const { stdout } = await promisify(execFile)(process.execPath, ["--input-type=module", "--eval", helps]);
  const known: readonly { readonly words: string; readonly help: string; readonly options: readonly string[] }[] = JSON.parse(stdout);
  for (const words of ["status", "plan explain", "train", "train status", "completion"])
    assert.ok(known.some((one) => one.words === words));
  for (const { words, help, options } of known) {
    const told = new Set([...help.matchAll(/(?<![\w-])--([a-z][a-z0-9-]*)/g)].map(([, name]) => name));
    const untold = options.filter((name) => name !== "help" && !untoldOptions.includes(name) && !told.has(name));
    assert.deepEqual(untold, [], words);
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
