// The bus against a real nats-server: start without it, losing it, its return, and wrong credentials. Never blocks, never throws.

import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { createAuthority, issueLeaf } from "../../operator/pki/authority.ts";
import { ensureBinaries } from "../../test/cluster/binaries.ts";
import { until } from "../../test/kit/wait.ts";

import { accessAt, askServer, type Bus, createBus } from "./nats.ts";

let program: string;
let port: number;
let dir: string;
const running = new Set<ChildProcess>();

before(async () => {
  program = (await ensureBinaries(() => {}, { only: ["nats-server"] }))["nats-server"];
  dir = mkdtempSync(join(tmpdir(), "enodia-nats-"));
  port = await new Promise<number>((resolve) => {
    const probe = createServer().listen(0, "127.0.0.1", () => {
      const { port: free } = probe.address() as { port: number };
      probe.close(() => resolve(free));
    });
  });
});
after(async () => {
  for (const child of running) await stop(child);
  rmSync(dir, { recursive: true, force: true });
});

function start(...args: string[]): ChildProcess {
  const child = spawn(program, ["-a", "127.0.0.1", "-p", String(port), ...args], { stdio: "ignore" });
  running.add(child);
  return child;
}
async function stop(child: ChildProcess): Promise<void> {
  running.delete(child);
  if (child.exitCode !== null || child.signalCode !== null) return;
  await new Promise<void>((resolve) => {
    child.once("exit", () => resolve());
    child.kill("SIGKILL");
  });
}
function bus(creds?: string): Bus {
  return createBus({ url: `nats://127.0.0.1:${port}`, name: "test", access: creds === undefined ? undefined : accessAt(creds) });
}

test("a bus starts without a server, drops and counts, and delivers once the server is there", async () => {
  const [sender, receiver] = [bus(), bus()];
  const got: string[] = [];
  receiver.subscribe("load.>", (bytes, subject) => void got.push(`${subject} ${Buffer.from(bytes)}`));
  assert.equal(sender.publish("load.0", "lost"), false);
  assert.equal(sender.dropped, 1);
  const server = start();
  try {
    await until("both connect", () => sender.status.connected && receiver.status.connected);
    await until("a message arrives", () => sender.publish("load.1", "kept") && got.includes("load.1 kept"));
    assert.ok(!got.some((line) => line.includes("lost")));
  } finally {
    await Promise.all([sender.close(), receiver.close()]);
    await stop(server);
  }
});

test("a lost server is noticed, publishing never throws meanwhile, and subscriptions live on after its return", async () => {
  let server = start();
  const one = bus();
  const seen: boolean[] = [];
  const got: string[] = [];
  one.onStatus(({ connected }) => void seen.push(connected));
  one.subscribe("x", (bytes) => {
    got.push(Buffer.from(bytes).toString());
    throw new Error("a handler's fault is its own");
  });
  try {
    await until("connected", () => one.status.connected);
    await stop(server);
    await until("disconnected", () => !one.status.connected);
    const before = one.dropped;
    for (let i = 0; i < 1000; i++) assert.equal(one.publish("x", "away"), false);
    assert.equal(one.dropped, before + 1000);
    server = start();
    await until("connected again", () => one.status.connected);
    await until("a message comes through", () => one.publish("x", "back") && got.includes("back"));
    assert.ok(!got.includes("away"));
    const changes = seen.slice(seen.indexOf(true)).filter((connected, i, all) => connected !== all[i - 1]);
    assert.deepEqual(changes, [true, false, true]);
  } finally {
    await one.close();
    await stop(server);
  }
});

test("a wrong token is named as the reason, and a corrected file is taken without a restart", async () => {
  const token = join(dir, "token");
  writeFileSync(token, "wrong\n");
  const server = start("--auth", "right");
  const one = bus(token);
  try {
    await until("refused", () => one.status.reason === "AuthorizationViolation");
    assert.equal(one.status.connected, false);
    writeFileSync(token, "right\n");
    await until("accepted", () => one.status.connected);
  } finally {
    await one.close();
    await stop(server);
  }
});

test("a connection whose credentials were taken back takes the new ones by itself", async () => {
  const token = join(dir, "rotated");
  writeFileSync(token, "old");
  let server = start("--auth", "old");
  const one = bus(token);
  try {
    await until("connected", () => one.status.connected);
    await stop(server);
    server = start("--auth", "new");
    await until("refused", () => one.status.reason === "AuthorizationViolation");
    writeFileSync(token, "new");
    await until("connected again", () => one.status.connected);
  } finally {
    await one.close();
    await stop(server);
  }
});

test("a server with a certificate of a CA of its own is trusted by that CA alone, and gets the token over TLS", async () => {
  const [ca, other] = [await createAuthority("nats", new Date()), await createAuthority("other", new Date())];
  const leaf = await issueLeaf(ca, { dns: ["localhost"], uris: ["spiffe://test/nats"] }, new Date());
  writeFileSync(join(dir, "tls.crt"), leaf.cert);
  writeFileSync(join(dir, "tls.key"), leaf.key);
  const server = start("--auth=s3cret", "--tls", `--tlscert=${join(dir, "tls.crt")}`, `--tlskey=${join(dir, "tls.key")}`);
  const url = `tls://localhost:${port}`;
  const busOf = (pem: string) => createBus({ url, name: "test", access: async () => ({ credentials: "s3cret", ca: pem }) });
  const [trusting, doubting] = [busOf(ca.cert), busOf(other.cert)];
  try {
    await until("connected", () => trusting.status.connected);
    await until("refused", () => /certificate/i.test(doubting.status.reason));
    assert.equal(doubting.status.connected, false);
  } finally {
    await Promise.all([trusting.close(), doubting.close()]);
    await stop(server);
  }
});

test("a server is asked once what it is, and the reason told for which it cannot be used", async () => {
  const ca = await createAuthority("nats", new Date());
  const leaf = await issueLeaf(ca, { dns: ["localhost"], uris: ["spiffe://test/nats"] }, new Date());
  const folder = mkdtempSync(join(dir, "asked-"));
  for (const [file, text] of Object.entries({ "tls.crt": leaf.cert, "tls.key": leaf.key, "ca.crt": ca.cert, token: "s3cret" }))
    writeFileSync(join(folder, file), text);
  writeFileSync(join(folder, "wrong"), "wrong");
  const config = join(folder, "nats.conf");
  const tls = `tls { cert_file: "${join(folder, "tls.crt")}", key_file: "${join(folder, "tls.key")}" }`;
  writeFileSync(config, `max_payload: 65536\nauthorization { token: s3cret }\n${tls}\n`);
  const ask = (url: string, path?: string) => askServer({ url, name: "test", access: path === undefined ? undefined : accessAt(path) });
  await assert.rejects(ask(`nats://127.0.0.1:${port}`), "nobody listens");
  const server = start("-c", config);
  try {
    const url = `tls://localhost:${port}`;
    let facts: Awaited<ReturnType<typeof askServer>> | undefined;
    for (let tries = 0; facts === undefined && tries < 100; tries++) {
      facts = await ask(url, folder).catch(() => undefined);
      if (facts === undefined) await sleep(100);
    }
    assert.deepEqual([facts?.payloadBytesMax, facts?.encrypted, facts?.authenticated], [65_536, true, true]);
    await assert.rejects(ask(url, join(folder, "token")), ({ code }: any) => /certificate/i.test(code));
    writeFileSync(join(folder, "token"), "wrong");
    await assert.rejects(ask(url, folder), ({ code }: any) => code === "AuthorizationViolation");
    await assert.rejects(ask(url, join(folder, "nowhere")), ({ code }: any) => code === "CredentialsNotFound");
  } finally {
    await stop(server);
  }
});
