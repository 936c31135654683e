// ggml in one thread after another of a process, as engines come and go. Loaded a second time to the same address it ends the process: it
// finds its own handler of uncaught exceptions there. So it stays loaded when the thread ends that loaded it.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { Worker } from "node:worker_threads";

const source = `import(${JSON.stringify(new URL("./index.ts", import.meta.url).href)}).then(async ({ createGgmlBackend }) => {
  const backend = await createGgmlBackend({ threads: 1 });
  await backend.close();
});`;

/** Where the process has parts of ggml, by address. */
const mapped = (): string[] =>
  readFileSync("/proc/self/maps", "utf8")
    .split("\n")
    .filter((line) => /libggml-/.test(line));

test("threads may use it one after another, and find it where it was", async () => {
  const found: string[][] = [];
  for (let i = 0; i < 3; i++) {
    await new Promise((resolve, reject) => {
      new Worker(source, { eval: true }).on("error", reject).on("exit", resolve);
    });
    found.push(mapped());
  }
  assert.ok(found.every((lines) => lines.some((line) => /libggml-base/.test(line)) && lines.some((line) => /libggml-cpu-/.test(line))));
  assert.deepEqual(found[1], found[0]);
  assert.deepEqual(found[2], found[0]);
});
