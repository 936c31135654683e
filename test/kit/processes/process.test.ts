// Waiting that is interrupted ends at once with the reason, and takes its child processes with it.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { test } from "node:test";
import { startLoad } from "../gateway/traffic-load.ts";
import { exec, sleep, unlessAborted, until } from "./process.ts";

const soonMs = 2000;
const longMs = 60_000;
const reason = new Error("interrupted");

/** Interrupts `work` 50 ms after its start, and checks what it gives and how long that took. */
async function interrupted(work: (signal: AbortSignal) => Promise<unknown>): Promise<void> {
  const abort = new AbortController();
  const started = performance.now();
  setTimeout(() => abort.abort(reason), 50);
  await assert.rejects(work(abort.signal), reason);
  assert.ok(performance.now() - started < soonMs, "it went on after it was interrupted");
}

const waits: Record<string, (signal: AbortSignal) => Promise<unknown>> = {
  "polling, between two probes": (signal) => until("nothing", () => undefined, { timeoutMs: longMs, everyMs: longMs, signal }),
  "polling, while a probe hangs": (signal) => until("nothing", () => new Promise<undefined>(() => {}), { timeoutMs: longMs, signal }),
  "polling, when probes fail": (signal) =>
    until("nothing", () => Promise.reject(new Error("no")), { timeoutMs: longMs, everyMs: 5, signal }),
  "a pause": (signal) => sleep(longMs, signal),
  "a command": (signal) => exec("sleep", [String(longMs / 1000)], { signal }),
  "work that knows no signal": (signal) => unlessAborted(new Promise(() => {}), signal),
};
for (const [name, wait] of Object.entries(waits)) {
  test(`${name}: an abort ends it at once with the reason`, () => interrupted(wait));
  test(`${name}: after an abort it gives the reason`, async () => {
    await assert.rejects(wait(AbortSignal.abort(reason)), reason);
  });
}

test("without an abort the value is given, and the error of a wait says for what and what was seen last", async () => {
  const { signal } = new AbortController();
  let asked = 0;
  assert.equal(await until("a third time", () => (++asked === 3 ? asked : undefined), { timeoutMs: longMs, everyMs: 1, signal }), 3);
  const failing = until("luck", () => Promise.reject(new Error("none")), { timeoutMs: 20, everyMs: 5, signal });
  await assert.rejects(failing, /waited 0\.02 s for luck: Error: none/);
  assert.equal((await exec("true", [], { signal })).code, 0);
});

test("traffic that is interrupted cancels its requests, which have not failed", async () => {
  const server = createServer(() => {}).listen(0, "127.0.0.1"); // takes requests and never answers
  await new Promise((done) => server.once("listening", done));
  const { port } = server.address() as { port: number };
  const abort = new AbortController();
  const load = startLoad({ url: () => `http://127.0.0.1:${port}`, model: "m", clients: 3, topic: "code", signal: abort.signal });
  await until(
    "the requests to arrive",
    () => new Promise<true | undefined>((done) => server.getConnections((_, n) => done(n === 3 ? true : undefined))),
    {
      timeoutMs: soonMs,
      everyMs: 5,
    },
  );
  abort.abort(reason);
  const started = performance.now();
  await load.stop();
  assert.ok(performance.now() - started < soonMs);
  assert.deepEqual(load.counts, { requests: 0, failed: 0, tokens: 0 });
  server.close();
});
