// The memory of a gateway's process under large and slow bodies, and other clients meanwhile.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { gatewayProcess as settings } from "../../crds/process.ts";
import { until } from "../../test/kit/wait.ts";

const mebibyte = 1024 * 1024;
const attackers = 200;
const attackMs = 8_000;
const restMs = 120_000; // a quiet machine takes 15 s, a busy one a minute and more
const mostMoreMiB = 256;
const mostLeftMiB = 64;

/** As the operator sets it: all that is the same for every gateway. */
const gatewayEnv = Object.fromEntries(
  Object.values(settings).flatMap((row) => ("value" in row ? [[row.variable, row.value] as const] : [])),
);
const kit = new URL("../../test/kit/", import.meta.url);
const program = `
import { createTestCa } from "${kit}network/certs.ts";
import { startGateways } from "${kit}gateway/gateway-host.ts";
const { gateway } = await startGateways(createTestCa(), [{}]);
console.log("port", gateway.httpPort);
`;

function runModule(t: TestContext, text: string, args: readonly number[] = []) {
  const argv = ["--input-type=module-typescript", "-e", text, ...args.map(String)];
  const child = spawn(process.execPath, argv, { stdio: ["ignore", "pipe", "inherit"], env: { ...process.env, ...gatewayEnv } });
  t.after(() => child.kill("SIGKILL"));
  return child;
}

async function gatewayProcess(t: TestContext) {
  const child = runModule(t, program);
  let said = "";
  child.stdout.on("data", (chunk) => (said += chunk));
  await until("it listens", () => /port \d+/.test(said));
  const rssMiB = () => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${child.pid}/status`, "utf8"))?.[1]) / 1024;
  return { port: Number(/port (\d+)/.exec(said)?.[1]), rssMiB };
}

const small = { model: "tiny", max_tokens: 3, messages: [{ role: "user", content: "hi" }] };
async function ask(port: number): Promise<number> {
  const body = JSON.stringify(small);
  const response = await fetch(`http://127.0.0.1:${port}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body,
  });
  await response.text();
  return response.status;
}

/** Sends large bodies again and again, whole ones or all but the last byte, from a process of its own. */
const attack = `
import { connect } from "node:net";
const [port, attackers, missing, chunked] = process.argv.slice(1).map(Number);
const body = JSON.stringify({ ...${JSON.stringify(small)}, messages: [{ role: "user", content: "x".repeat(${8 * mebibyte - 200}) }] });
const framing = chunked ? "transfer-encoding: chunked" : "content-length: " + body.length;
const head = "POST /v1/chat/completions HTTP/1.1\\r\\nhost: a\\r\\ncontent-type: application/json\\r\\n" + framing + "\\r\\n\\r\\n";
const size = chunked ? body.length.toString(16) + "\\r\\n" : "";
const sent = Buffer.from(head + size + body.slice(0, body.length - missing) + (chunked && !missing ? "\\r\\n0\\r\\n\\r\\n" : ""));
const open = () => {
  const socket = connect({ host: "127.0.0.1", port }).on("error", () => {});
  socket.write(sent);
  socket.once("data", () => socket.destroySoon()).once("close", () => setTimeout(open, 1_000));
};
for (let i = 0; i < attackers; i++) open();
`;

for (const [what, missing, chunked] of [
  ["whole", 0, 0],
  ["all but a byte, of unknown length", 1, 1],
] as const)
  test(`200 bodies of 8 MiB, ${what}, leave a gateway small and answering`, { timeout: 180_000 }, async (t) => {
    const { port, rssMiB } = await gatewayProcess(t);
    for (let i = 0; i < 20; i++) assert.equal(await ask(port), 200);
    const before = rssMiB();
    const attacker = runModule(t, attack, [port, attackers, missing, chunked]);
    const end = performance.now() + attackMs;
    let [most, answered] = [0, 0];
    while (performance.now() < end) {
      assert.equal(await ask(port), 200);
      answered += 1;
      most = Math.max(most, rssMiB());
      await sleep(50);
    }
    attacker.kill("SIGKILL");
    const stopped = performance.now();
    while (performance.now() < stopped + restMs && rssMiB() > before + mostLeftMiB) {
      assert.equal(await ask(port), 200);
      await sleep(250);
    }
    const after = rssMiB();
    t.diagnostic(
      `${Math.round(before)} MiB before, at most ${Math.round(most)}, ${Math.round(after)} after ${Math.round((performance.now() - stopped) / 1000)} s; ${answered} others answered`,
    );
    assert.ok(most < before + mostMoreMiB, `${before} MiB before, ${most} under the attack`);
    assert.ok(after < before + mostLeftMiB, `${before} MiB before, ${after} afterwards`);
  });
