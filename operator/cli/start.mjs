#!/usr/bin/env node
// The packed entry of `enodia`, `kubectl enodia` and kubectl's completion. It runs under any Node, to tell of one that is too old.
const major = 24;

if (Number(process.versions.node.split(".")[0]) < major) {
  process.stderr.write(`enodia: Node ${process.versions.node} is too old: install Node ${major} or newer\n`);
  process.exitCode = 1;
} else import("./main.js");
