// The simulated network does what a real one does: keeps the order of a stream, holds up what is cut and breaks what is cut for long,
// resets the streams of a process that dies, and loses answers of calls that were carried out.
import assert from "node:assert/strict";
import { test } from "node:test";
import { AppError } from "../../crds/common.ts";
import type { LinkEvents } from "../../runtime/net/engine-link.ts";
import { Control } from "../../runtime/net/gen/enodia/runtime/v1/runtime_pb.js";
import { fromStatus } from "../../runtime/net/grpc.ts";
import { fixedTls } from "../../runtime/net/tls.ts";
import { asOwner, VirtualClock } from "./clock.ts";
import { type Host, SimWire } from "./wire.ts";

const tls = fixedTls({ cert: Buffer.of(1), key: Buffer.of(2), ca: Buffer.of(3) });
const [namespace, name] = ["ns", "mix"];
const sanOf = (rank: number) => `DNS:rank-${rank}.${name}.${namespace}.enodia, URI:spiffe://enodia/${namespace}/${name}/rank-${rank}`;

/** Rank 1 calls rank 0, which says what it got and answers each frame with its number. */
function twoRanks() {
  const clock = new VirtualClock();
  let connected = true;
  const wire = new SimWire(clock, {
    connected: () => connected,
    duplicates: () => false,
    transfer: () => undefined,
    arriving: (message) => message,
  });
  const hostOf = (id: number): Host => ({ owner: { dead: false }, id, san: sanOf(id), stalled: () => false });
  const [server, client] = [hostOf(0), hostOf(1)];
  const got: string[] = [];
  /** Layers whose frames are never answered. */
  const stuck = new Set<number>();
  const services = wire.network(server, "a:1").createServer(tls);
  const serve = async ({ layer }: { layer: number }, rows: Uint8Array) => {
    got.push(`frame ${layer}`);
    return stuck.has(layer) ? new Promise<never>(() => {}) : rows;
  };
  const rowsHost = wire
    .rows(server)
    .host({ namespace, name, hidden: 1, sums: false, tls, refuses: () => undefined, serve, onProblem: () => {}, onRefused: () => {} });
  void rowsHost.listen("a", 2);
  const drain = async () => {
    got.push("drain");
    if (got.length > 1) throw new AppError("twice", { code: "Busy" });
    return {};
  };
  services.add(Control, { drain } as never);
  void services.listen("a", 1);
  const target = { address: "a:1", serverName: `rank-0.${name}.${namespace}.enodia`, tls };
  const self = { identity: { deploymentUid: "d", rank: 1, podUid: "u1", bootId: "b1" }, hidden: 1, sums: false };
  const connect = (events: LinkEvents) => wire.rows(client).connect({ ...target, address: "a:2" }, self, events);
  const control = () => wire.network(client, "b:1").connect(Control, target);
  const kill = (host: Host) => {
    host.owner.dead = true;
    wire.killed(host);
  };
  const cut = (on: boolean) => {
    connected = !on;
  };
  return {
    clock,
    got,
    stuck,
    rowsHost,
    server,
    client,
    connect,
    control,
    kill,
    cut,
    asClient: <T>(work: () => T) => asOwner(client.owner, work),
  };
}

async function sending({ clock, connect, asClient }: ReturnType<typeof twoRanks>) {
  const heard: string[] = [];
  const link = asClient(() => connect({ ready: () => heard.push("ready"), closed: ({ code }) => heard.push(code) }));
  await clock.run(50);
  assert.deepEqual(heard.splice(0), ["ready"]);
  const send = (layer: number, onDemand = false) =>
    asClient(() => {
      const frame = { layer, epoch: 1, decode: true, pairRows: Uint32Array.of(0), pairExperts: Uint32Array.of(0) };
      const sent = link.send({ ...frame, onDemand, rows: () => Uint8Array.of(layer), answerBytes: 1, heldBytes: 2 });
      sent?.then(
        (rows) => heard.push(`rows ${(rows as Uint8Array)[0]}`),
        ({ code }) => code === "DeadlineExceeded" && heard.push(code),
      );
    });
  return { heard, send, link };
}

test("messages of a stream arrive in their order, and their answers too", async () => {
  const two = twoRanks();
  const { heard, send } = await sending(two);
  const numbers = Array.from({ length: 20 }, (_, i) => i);
  for (const layer of numbers) send(layer);
  await two.clock.run(100);
  assert.deepEqual(
    two.got,
    numbers.map((layer) => `frame ${layer}`),
  );
  assert.deepEqual(
    heard,
    numbers.map((layer) => `rows ${layer}`),
  );
});

test("a short cut holds messages up, a long one breaks the stream at both ends", async () => {
  const two = twoRanks();
  const { heard, send } = await sending(two);
  send(0);
  await two.clock.run(50);
  two.cut(true);
  send(1);
  await two.clock.run(3_000);
  assert.deepEqual(heard, ["rows 0"]);
  two.cut(false);
  await two.clock.run(1_000);
  assert.deepEqual(heard, ["rows 0", "rows 1"]);
  two.cut(true);
  send(2);
  await two.clock.run(10_000);
  assert.deepEqual(heard.at(-1), "Unavailable");
  assert.deepEqual(two.got, ["frame 0", "frame 1"]);
  assert.equal(two.rowsHost.connections, 0);
});

test("a frame that is answered too late ends alone, with a load or without", async () => {
  const two = twoRanks();
  const { heard, send, link } = await sending(two);
  two.stuck.add(1).add(2);
  two.clock.every(250, () => link.look(performance.now()));
  two.clock.after(0, () => {
    send(1);
    send(2, true);
  });
  await two.clock.run(9_000);
  assert.deepEqual(heard, []);
  await two.clock.run(2_000);
  assert.deepEqual(heard, ["DeadlineExceeded"]);
  two.clock.after(20_000, () => send(0));
  await two.clock.run(20_100);
  assert.deepEqual(heard, ["DeadlineExceeded", "DeadlineExceeded", "rows 0"]);
});

test("a process that dies resets its streams, and does nothing any more", async () => {
  const two = twoRanks();
  const { heard, send } = await sending(two);
  send(0);
  await two.clock.run(50);
  send(1);
  two.kill(two.server);
  await two.clock.run(50);
  assert.deepEqual(heard, ["rows 0", "Unavailable"]);
  assert.deepEqual(two.got, ["frame 0"]);
});

test("a call that was carried out may lose its answer, and a name that is another's is not served", async () => {
  const two = twoRanks();
  const outcomes: string[] = [];
  const call = (client: ReturnType<typeof two.control>) =>
    two.asClient(() =>
      client.drain({}, { deadline: two.clock.now() + 2_000 }).then(
        () => outcomes.push("ok"),
        (error) => outcomes.push(fromStatus(error, "").code),
      ),
    );
  void call(two.control());
  two.clock.after(2, () => two.cut(true)); // on its way there, or back
  await two.clock.run(5_000);
  two.cut(false);
  assert.deepEqual([two.got.length <= 1, outcomes], [true, ["DeadlineExceeded"]]);
  two.got.length = 0;
  void call(two.control());
  await two.clock.run(100);
  void call(two.control());
  await two.clock.run(100);
  assert.deepEqual(outcomes, ["DeadlineExceeded", "ok", "Busy"]);
});
