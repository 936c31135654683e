// Certificates in a folder, as a kubelet changes them under a running process: a renewal of the CA in all its steps, seen by two ends
// that hear of each step at different times.
import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import { mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { createAuthority, issueLeaf, type KeyPairPem } from "../../operator/pki/authority.ts";
import { until } from "../../test/kit/processes/process.ts";
import { Control, WatchPushSchema, WatchStatusSchema } from "./gen/enodia/runtime/v1/runtime_pb.js";
import { connect, createServer } from "./grpc.ts";
import { callHeartbeat } from "./heartbeat.ts";
import type { HandlersOf } from "./service.ts";
import { folderTls, serverNames, type TlsSource } from "./tls.ts";

type Handlers = HandlersOf<typeof Control>;

const refreshMs = 5;
const wait = { timeoutMs: 5_000, everyMs: 2 };
const now = new Date();
const serverName = serverNames.rank(0, "ns", "moe");

/** A mounted Secret: the files are links into a folder that is swapped as a whole. */
class Mounted {
  readonly dir = mkdtempSync(join(tmpdir(), "enodia-tls-"));
  readonly #member: string;
  #swaps = 0;

  constructor(t: TestContext, member: string) {
    this.#member = member;
    for (const file of ["tls.crt", "tls.key", "ca.crt"]) symlinkSync(join("..data", file), join(this.dir, file));
    t.after(() => rmSync(this.dir, { recursive: true, force: true }));
  }

  async hold(signer: KeyPairPem, ...trusted: KeyPairPem[]): Promise<string> {
    const uris = [`spiffe://enodia/ns/moe/${this.#member}`];
    const leaf = await issueLeaf(signer, { dns: [`${this.#member}.moe.ns.enodia`], uris }, now);
    this.write({ ...leaf, ca: trusted.map(({ cert }) => cert).join("\n") });
    return leaf.cert;
  }

  write({ cert, key, ca }: KeyPairPem & { readonly ca: string }): void {
    const data = `..${this.#swaps++}`;
    mkdirSync(join(this.dir, data));
    for (const [file, text] of Object.entries({ "tls.crt": cert, "tls.key": key, "ca.crt": ca }))
      writeFileSync(join(this.dir, data, file), text);
    symlinkSync(data, join(this.dir, "..new"));
    renameSync(join(this.dir, "..new"), join(this.dir, "..data"));
  }
}

/** A stream of its own connection. */
interface Talk {
  /** Says one thing and waits for its answer. */
  say(): Promise<void>;
  close(): void;
}

function talk(stream: EventEmitter, speak: () => void, close: () => void): Talk {
  stream.on("error", () => {}); // it is cut at the end
  const say = () =>
    new Promise<void>((resolve, reject) => {
      stream.once("data", () => resolve());
      stream.once("error", reject);
      stream.once("end", () => reject(new Error("the other end left")));
      speak();
    });
  return { say, close };
}

const target = (port: number, tls: TlsSource) => ({
  address: `127.0.0.1:${port}`,
  serverName,
  tls,
  self: { deploymentUid: "d", rank: 1, podUid: "u1", bootId: "b1" },
});
const ways: Readonly<Record<string, (port: number, tls: TlsSource) => Talk>> = {
  gRPC: (port, tls) => {
    const client = connect(Control, target(port, tls));
    const stream = client.watch();
    return talk(stream, () => stream.write(create(WatchPushSchema, {})), client.close);
  },
  heartbeats: (port, tls) => {
    const events = new EventEmitter();
    const closed = (error: Error) => events.emit("error", error);
    const call = callHeartbeat(target(port, tls), { answered: (enginePort) => events.emit("data", enginePort), closed });
    return talk(events, call.ping, call.close);
  },
};

for (const [way, open] of Object.entries(ways)) {
  test(`leaves and a CA are renewed under running processes: new connections are made in every step, and the old one goes on (${way})`, (t) =>
    renewed(t, open));
}

async function renewed(t: TestContext, open: (port: number, tls: TlsSource) => Talk): Promise<void> {
  const [old, next] = [await createAuthority("moe.ns.enodia", now), await createAuthority("moe.ns.enodia", now)];
  const [rank, gateway] = [new Mounted(t, "rank-0"), new Mounted(t, "gateway")];
  let leaf = await rank.hold(old, old);
  await gateway.hold(old, old);
  const serverTls = folderTls(rank.dir, refreshMs);
  t.after(() => serverTls.close());
  const server = createServer(serverTls);
  const watch: Handlers["watch"] = (call) => void call.on("data", () => call.write(create(WatchStatusSchema, {})));
  server.add(Control, { watch } as Handlers);
  server.addHeartbeats({ greet: () => {}, state: () => 1 });
  const port = await server.listen("127.0.0.1", 0);
  t.after(() => server.close(0));
  const clientTls = folderTls(gateway.dir, refreshMs);
  const first = open(port, clientTls);
  t.after(() => {
    first.close();
    clientTls.close();
  });
  /** A connection of its own, by the material of now; the first one goes on beside it. */
  const meet = async () => {
    const tls = folderTls(gateway.dir, refreshMs);
    const another = open(port, tls);
    try {
      await Promise.all([another.say(), first.say()]);
    } finally {
      another.close();
      tls.close();
    }
  };
  const serve = async (...by: Parameters<Mounted["hold"]>) => {
    leaf = await rank.hold(...by);
  };
  const steps: Readonly<Record<string, () => Promise<unknown>>> = {
    "as it was": async () => {},
    "the server has its next leaf": () => serve(old, old),
    "so has the caller": () => gateway.hold(old, old),
    "the caller trusts the next CA too": () => gateway.hold(old, old, next),
    "so does the server": () => serve(old, old, next),
    "the caller has a leaf of the next": () => gateway.hold(next, next, old),
    "so has the server": () => serve(next, next, old),
    "the caller trusts the old one no more": () => gateway.hold(next, next),
    "neither does the server": () => serve(next, next),
  };
  for (const [step, take] of Object.entries(steps)) {
    await take();
    await until(`the server to have read it: ${step}`, () => serverTls.current().cert.toString() === leaf || undefined, wait);
    await meet();
  }
  await gateway.hold(old, next, old);
  await assert.rejects(meet(), "a leaf of the CA that is gone");
  await first.say();
}

test("a certificate whose key is still the one before is not taken until both are there", async (t) => {
  const ca = await createAuthority("moe.ns.enodia", now);
  const mounted = new Mounted(t, "rank-0");
  const before = await mounted.hold(ca, ca);
  const tls = folderTls(mounted.dir, refreshMs);
  t.after(() => tls.close());
  const { key } = tls.current();
  const leaf = await issueLeaf(ca, { dns: ["rank-0.moe.ns.enodia"], uris: ["spiffe://enodia/ns/moe/rank-0"] }, now);
  mounted.write({ cert: leaf.cert, key: key.toString(), ca: ca.cert });
  await new Promise((resolve) => setTimeout(resolve, 10 * refreshMs));
  assert.equal(tls.current().cert.toString(), before);
  mounted.write({ ...leaf, ca: ca.cert });
  const taken = () => tls.current().cert.toString() === leaf.cert && tls.current().key.toString() === leaf.key;
  await until("both to be taken", () => taken() || undefined, wait);
});
