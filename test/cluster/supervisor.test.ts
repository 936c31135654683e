// The shell scripts that keep a cluster's programs running.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import fc from "fast-check";
import { run, waitFor } from "./exec.ts";
import { flags, quote, supervisorScript } from "./supervisor.ts";

test("every word reaches the program as it was, whatever is in it", async () => {
  const words = fc.sample(fc.string({ maxLength: 30, unit: "binary-ascii" }), 50).map((word) => word.replaceAll("\0", ""));
  const { stdout } = await run("/bin/sh", ["-c", `printf '%s\\0' ${words.map(quote).join(" ")}`]);
  assert.deepEqual(stdout.split("\0").slice(0, -1), words);
});

test("flags are written with an equals sign", () => {
  assert.deepEqual(flags({ a: 1, "b-c": true, d: "x y" }), ["--a=1", "--b-c=true", "--d=x y"]);
});

test("a program starts when its socket is there, gets its environment, and is started again when it ends", async () => {
  const folder = mkdtempSync(join(tmpdir(), "enodia-supervisor-"));
  const gate = join(folder, "gate");
  const program = { name: "echo", command: ["sh", "-c", 'echo "run $WORD"; exit 3'], env: { WORD: "it's" }, after: gate };
  const script = join(folder, "script.sh");
  writeFileSync(script, supervisorScript({ logs: join(folder, "logs"), prepare: [`touch ${folder}/prepared`], programs: [program] }));
  const child = spawn("bash", [script], { detached: true, stdio: "ignore" });
  try {
    await waitFor("the preparation", { timeoutMs: 5000, everyMs: 20 }, async () => readText(join(folder, "prepared")));
    assert.equal(readText(join(folder, "logs/echo.log")), undefined);
    writeFileSync(gate, "");
    const log = await waitFor("two runs", { timeoutMs: 10_000, everyMs: 50 }, async () => {
      const text = readText(join(folder, "logs/echo.log"));
      return (text?.split("run it's").length ?? 0) > 2 ? text : undefined;
    });
    assert.match(log, /supervisor: echo ended with exit code 3/);
  } finally {
    process.kill(-(child.pid ?? 0), "SIGKILL");
    rmSync(folder, { recursive: true, force: true });
  }
});

function readText(file: string): string | undefined {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return undefined;
  }
}
