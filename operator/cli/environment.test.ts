// Work of the thread pool may use all processors, unless somebody said how many.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

const script = `
  import { pbkdf2 } from "node:crypto";
  import { readdirSync } from "node:fs";
  const tasks = () => readdirSync("/proc/self/task").length;
  await import(process.argv[1]);
  const before = tasks();
  for (let i = 0; i < 99; i++) pbkdf2("a", "b", 1, 32, "sha256", () => {});
  process.stdout.write(String(tasks() - before));`;

test("the thread pool has a thread for each processor and four at least, or as many as are asked for", () => {
  const threads = (given: NodeJS.ProcessEnv): number => {
    const { UV_THREADPOOL_SIZE: _, ...env } = process.env;
    const args = [
      "--disable-warning=ExperimentalWarning",
      "--input-type=module",
      "-e",
      script,
      join(import.meta.dirname, "environment.ts"),
    ];
    return Number(execFileSync(process.execPath, args, { env: { ...env, ...given }, encoding: "utf8" }));
  };
  assert.deepEqual([threads({}), threads({ UV_THREADPOOL_SIZE: "7" })], [Math.max(4, availableParallelism()), 7]);
});
