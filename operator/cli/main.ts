#!/usr/bin/env node
// The entry of `enodia`, `kubectl enodia`, and kubectl's completion.
import { enableCompileCache } from "node:module";
import { basename } from "node:path";

enableCompileCache();
const [{ AppError }, { showsTraces }, { execute, misuse }, { enodia }] = await Promise.all([
  import("../../crds/common.ts"),
  import("./environment.ts"),
  import("./command-tree.ts"),
  import("./registry.ts"),
]);

/** The oldest supported Node; a checkout brings its own (bootstrap.mjs). */
const nodeMajor = 24;
/** kubectl runs a program of this name. */
const completionName = "kubectl_complete-enodia";
const usageCodes = ["Usage", "BadOption", "InvalidOption"];

// A reader that closes early, such as head, is no error.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code !== "EPIPE") throw error;
  process.exit(0);
});
try {
  if (Number(process.versions.node.split(".")[0]) < nodeMajor)
    throw new AppError(`Node ${process.versions.node} is too old: install Node ${nodeMajor} or newer`, { code: "NodeTooOld" });
  const [, called = "", ...line] = process.argv;
  process.exitCode = await execute(enodia, basename(called) === completionName ? ["completion", "kubectl", ...line] : line);
} catch (caught) {
  const error = AppError.from(caught);
  process.stderr.write(`enodia: ${error.message}\n`);
  if (showsTraces()) process.stderr.write(`${error.stack}\n${String(error.cause ?? "")}\n`);
  process.exitCode = usageCodes.includes(error.code) ? misuse : 1;
}
