// The entry of `enodia`, `kubectl enodia`, and kubectl's completion. Node is new enough: a checkout brings it (bootstrap.mjs), and the
// package asks (start.mjs).
import { enableCompileCache } from "node:module";
import { basename } from "node:path";

enableCompileCache();
const [{ AppError }, { showsTraces }, { execute, misuse }, { enodia }] = await Promise.all([
  import("../../crds/common.ts"),
  import("./environment.ts"),
  import("./command-tree.ts"),
  import("./registry.ts"),
]);

/** kubectl runs a program of this name. */
const completionName = "kubectl_complete-enodia";
const usageCodes = ["Usage", "BadOption", "InvalidOption"];

// A reader that closes early, such as head, is no error.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code !== "EPIPE") throw error;
  process.exit(0);
});
try {
  const [, called = "", ...line] = process.argv;
  process.exitCode = await execute(enodia, basename(called) === completionName ? ["completion", "kubectl", ...line] : line);
} catch (caught) {
  const error = AppError.from(caught);
  const [, lacking] = /^Cannot find package '([^']+)'/.exec(error.message) ?? [];
  const remedy = lacking === undefined ? error.message : `the package ${lacking} is not installed: install enodia without --omit=optional`;
  process.stderr.write(`enodia: ${remedy}\n`);
  if (showsTraces()) process.stderr.write(`${error.stack}\n${String(error.cause ?? "")}\n`);
  process.exitCode = usageCodes.includes(error.code) ? misuse : 1;
}
