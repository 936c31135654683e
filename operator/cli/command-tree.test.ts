// What a line that is no command, or has an option that there is not, is answered.
import assert from "node:assert/strict";
import { test } from "node:test";
import { type Entry, flag } from "./command.ts";
import { execute } from "./command-tree.ts";

const load = async () => ({ about: "", options: { watch: flag("-w, --watch", "") }, action: () => 0 });
const planted: Entry = {
  summary: "",
  commands: { status: { summary: "", load }, plan: { summary: "", commands: { simulate: { summary: "", load } } } },
};

const cases: Readonly<Record<string, readonly [line: string, message: string]>> = {
  "a command": ["statu", "unknown command 'statu'; did you mean status?; see: enodia --help"],
  "a command of a group": ["plan simulat", "unknown command 'simulat'; did you mean simulate?; see: enodia plan --help"],
  "an option": ["status --watc", "unknown option '--watc'; did you mean --watch?; see: enodia status --help"],
  "not what is like none": ["zzzzzzzz", "unknown command 'zzzzzzzz'; see: enodia --help"],
};
for (const [name, [line, message]] of Object.entries(cases))
  test(`the nearest is named: ${name}`, () => assert.rejects(execute(planted, line.split(" ")), { code: "Usage", message }));
