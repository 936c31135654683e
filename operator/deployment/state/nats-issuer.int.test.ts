// Users of the chart's NATS against a real nats-server: what the operator writes into Secrets lets each deployment publish and hear its own
// load alone, and replaces the token of former releases without a restart of workers.
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { loadSubject } from "../../../crds/telemetry.ts";
import { accessAt, type Bus, createBus } from "../../../runtime/net/nats.ts";
import { ensureBinaries } from "../../../test/cluster/binaries.ts";
import { deployment, settings } from "../../../test/kit/deployment/deployment.ts";
import { FakeKube } from "../../../test/kit/kube/fake-kube.ts";
import { freePort } from "../../../test/kit/network/free-port.ts";
import { until } from "../../../test/kit/wait.ts";
import { resources } from "../../kube/kube.ts";
import { textOf } from "../../pki/authorities.ts";
import { NatsCredentials } from "./nats-credentials.ts";
import { NatsIssuer } from "./nats-issuer.ts";

let program: string;
let dir: string;
let port: number;
const servers = new Set<ChildProcess>();
const buses: Bus[] = [];

before(async () => {
  program = (await ensureBinaries(() => {}, { only: ["nats-server"] }))["nats-server"];
  dir = mkdtempSync(join(tmpdir(), "enodia-nats-"));
  port = await freePort();
});
after(async () => {
  await Promise.all(buses.map((bus) => bus.close()));
  for (const server of servers) await stop(server);
  rmSync(dir, { recursive: true, force: true });
});

function start(...args: string[]): ChildProcess {
  const server = spawn(program, ["-a", "127.0.0.1", "-p", String(port), ...args], { stdio: "ignore" });
  servers.add(server);
  return server;
}
async function stop(server: ChildProcess): Promise<void> {
  servers.delete(server);
  const ended = new Promise<void>((resolve) => void server.once("exit", () => resolve()));
  if (server.kill("SIGKILL")) await ended;
}
function connected(access: () => Promise<{ credentials: string }>): Bus {
  const bus = createBus({ url: `nats://127.0.0.1:${port}`, name: "test", access });
  buses.push(bus);
  return bus;
}

function issuing(kube = new FakeKube()) {
  const own = { ...settings, natsSecrets: "enodia-nats" };
  const issuer = new NatsIssuer({ kube, namespace: settings.namespace, secrets: own.natsSecrets, now: () => new Date() });
  const credentials = new NatsCredentials(kube, own, issuer);
  const { spec } = deployment();
  const of = async (namespace: string, former?: string) =>
    (await credentials.entries({ namespace, name: "moe" }, spec, former))["user.creds"] ?? "";
  const secret = async (name: string) => kube.get(resources.secrets, { namespace: settings.namespace, name });
  const config = async () => {
    await credentials.access("operator");
    const path = join(dir, "auth.conf");
    writeFileSync(path, textOf((await secret("enodia-nats-server"))!, "auth.conf") ?? "");
    return path;
  };
  return { kube, issuer, credentials, of, secret, config };
}

test("a deployment's user neither hears nor says anything of another's load; the operator hears all and says nothing", async () => {
  const { of, credentials, config } = issuing();
  const server = start("-c", await config());
  const [a, b] = await Promise.all(["a", "b"].map(async (namespace) => of(namespace)));
  const open = (text = "") => connected(async () => ({ credentials: text }));
  const [ofA, ofB, operator, stranger] = [open(a), open(b), open((await credentials.access("operator")).credentials), open("x")];
  const subject = (namespace: string) => loadSubject("enodia", namespace, "moe", 0);
  const heard: string[] = [];
  const follow = (who: string, bus: Bus, what: string) =>
    void bus.subscribe(what, (bytes, on) => void heard.push(`${who} ${on} ${Buffer.from(bytes)}`));
  await until("all connect", () => [ofA, ofB, operator].every(({ status }) => status.connected));
  await until("a stranger is refused", () => stranger.status.reason === "AuthorizationViolation");
  follow("operator", operator, "enodia.>");
  follow("b", ofB, loadSubject("enodia", "b", "moe", "*"));
  await until("b hears itself", () => ofB.publish(subject("b"), "own") && heard.includes(`b ${subject("b")} own`));
  await until("the operator hears it", () => heard.includes(`operator ${subject("b")} own`));
  follow("a", ofA, loadSubject("enodia", "b", "moe", "*"));
  follow("a", ofA, ">");
  await until("a is refused", () => ofA.status.reason === "AuthorizationViolation");
  for (const forged of [subject("b"), loadSubject("enodia", "a", "other", 0), "enodia.v1.a.moe.more"]) ofA.publish(forged, "forged");
  operator.publish(subject("b"), "forged");
  await until("a's own load arrives", () => ofA.publish(subject("a"), "own") && heard.includes(`operator ${subject("a")} own`));
  await until("b's own load arrives", () => ofB.publish(subject("b"), "last") && heard.includes(`operator ${subject("b")} last`));
  assert.deepEqual(
    heard.filter((one) => one.startsWith("a ") || one.endsWith("forged")),
    [],
  );
  await stop(server);
});

test("a worker with the token of a former release takes its user from the same folder when the server wants one", async () => {
  const { of, config } = issuing();
  const folder = mkdtempSync(join(dir, "telemetry-"));
  writeFileSync(join(folder, "token"), "t");
  const former = start("--auth", "t");
  const bus = createBus({ url: `nats://127.0.0.1:${port}`, name: "worker", access: accessAt(folder) });
  buses.push(bus);
  await until("it connects", () => bus.status.connected);
  await stop(former);
  start("-c", await config());
  await until("its token is refused", () => bus.status.reason === "AuthorizationViolation");
  writeFileSync(join(folder, "user.creds"), await of("a"));
  rmSync(join(folder, "token"));
  await until("it connects again", () => bus.status.connected);
});

test("keys are made once, users stay while they are good, and another leader goes on with both", async () => {
  const { kube, of, secret, config } = issuing();
  const first = await of("a");
  await config();
  const keys = await secret("enodia-nats-keys");
  const server = await secret("enodia-nats-server");
  const next = issuing(kube);
  assert.equal(await next.of("a", first), first);
  assert.notEqual(await next.of("b", first), first, "another's user is none");
  await next.config();
  assert.deepEqual([await next.secret("enodia-nats-keys"), await next.secret("enodia-nats-server")], [keys, server]);
  assert.doesNotMatch(textOf(server!, "auth.conf") ?? "", new RegExp(`${textOf(keys!, "account")}|${textOf(keys!, "operator")}`));
  kube.remove(resources.secrets, { namespace: settings.namespace, name: "enodia-nats-keys" });
  assert.notEqual(await issuing(kube).of("a", first), first, "users of keys that are gone are issued anew");
});
