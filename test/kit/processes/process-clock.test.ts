import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { test } from "node:test";
import { stop, until } from "./process.ts";
import { setClock } from "./process-clock.ts";

test("a process reads a wrong clock, and the right one again", { skip: process.getuid?.() !== 0 && "needs root" }, async () => {
  const line = "[Date.now(), +new Date(), new Date(5) instanceof Date, +new Date(5)].join(' ')";
  const program = `console.log("up"); setInterval(() => console.log(${line}), 20)`;
  // A namespace of its own, as a pod has: the inspector's port is fixed.
  const child = spawn("unshare", ["-n", "sh", "-c", 'ip link set lo up; exec "$0" -e "$1"', process.execPath, program]);
  let last = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    last = text.trim().split("\n").at(-1) ?? "";
  });
  try {
    await once(child.stdout, "data");
    const wrongBy = (ms: number) => () => {
      const [now = 0, made = 0] = last.split(" ").map(Number);
      const right = [now, made].every((time) => Math.abs(time - Date.now() - ms) < 2_000);
      return right && last.endsWith("true 5") ? true : undefined;
    };
    await until("the right clock", wrongBy(0), { timeoutMs: 10_000 });
    for (const ms of [-600_000, 600_000, 0]) {
      await setClock(child.pid ?? 0, ms);
      await until(`a clock that is wrong by ${ms} ms`, wrongBy(ms), { timeoutMs: 10_000 });
    }
    assert.equal(child.exitCode, null);
  } finally {
    await stop(child);
  }
});
