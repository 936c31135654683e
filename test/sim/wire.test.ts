// The simulated network does what a real one does: keeps the order of a stream, holds up what is cut and breaks what is cut for long,
// resets the streams of a process that dies, and loses answers of calls that were carried out.
import assert from "node:assert/strict";
import type { EventEmitter } from "node:events";
import { test } from "node:test";
import { AppError } from "../../crds/common.ts";
import { Control, DispatchFrameSchema, DispatchReplySchema } from "../../runtime/net/gen/enodia/runtime/v1/runtime_pb.js";
import { fromStatus } from "../../runtime/net/grpc.ts";
import { create } from "../../runtime/net/service.ts";
import type { TlsSource } from "../../runtime/net/tls.ts";
import { asOwner, VirtualClock } from "./clock.ts";
import { type Host, SimWire } from "./wire.ts";

const tls = {} as TlsSource;

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
  const hostOf = (id: number): Host => ({ owner: { dead: false }, id, san: `DNS:rank-${id}`, stalled: () => false });
  const [server, client] = [hostOf(0), hostOf(1)];
  const got: string[] = [];
  const services = wire.network(server, "a:1").createServer(tls);
  services.addDispatch((call) => {
    call.on("data", ({ seq }) => {
      got.push(`frame ${seq}`);
      call.write(create(DispatchReplySchema, { seq }), () => {});
    });
    for (const event of ["end", "cancelled"]) (call as EventEmitter).on(event, () => got.push(event));
  });
  const drain = async () => {
    got.push("drain");
    if (got.length > 1) throw new AppError("twice", { code: "Busy" });
    return {};
  };
  services.add(Control, { drain } as never);
  void services.listen("a", 1);
  const target = { address: "a:1", serverName: "rank-0", tls, self: { deploymentUid: "d", rank: 1, podUid: "u1", bootId: "b1" } };
  const connect = () => wire.network(client, "b:1").connectDispatch(target);
  const control = () => wire.network(client, "b:1").connect(Control, target);
  const kill = (host: Host) => {
    host.owner.dead = true;
    wire.killed(host);
  };
  const cut = (on: boolean) => {
    connected = !on;
  };
  return { clock, got, server, client, connect, control, kill, cut, asClient: <T>(work: () => T) => asOwner(client.owner, work) };
}

function dispatching({ connect, asClient }: ReturnType<typeof twoRanks>) {
  return asClient(() => {
    const heard: string[] = [];
    const call = connect().dispatch();
    call.on("data", ({ seq }) => heard.push(`reply ${seq}`));
    call.on("error", (error) => heard.push(fromStatus(error, "").code));
    const send = (seq: number) => call.write(create(DispatchFrameSchema, { seq: BigInt(seq) }));
    return { call, heard, send };
  });
}

test("messages of a stream arrive in their order, and their answers too", async () => {
  const two = twoRanks();
  const { heard, send } = dispatching(two);
  const numbers = Array.from({ length: 20 }, (_, i) => i);
  for (const seq of numbers) send(seq);
  await two.clock.run(100);
  assert.deepEqual(
    two.got,
    numbers.map((seq) => `frame ${seq}`),
  );
  assert.deepEqual(
    heard,
    numbers.map((seq) => `reply ${seq}`),
  );
});

test("a short cut holds messages up, a long one breaks the stream at both ends", async () => {
  const two = twoRanks();
  const { heard, send } = dispatching(two);
  send(0);
  await two.clock.run(50);
  two.cut(true);
  send(1);
  await two.clock.run(3_000);
  assert.deepEqual(heard, ["reply 0"]);
  two.cut(false);
  await two.clock.run(1_000);
  assert.deepEqual(heard, ["reply 0", "reply 1"]);
  two.cut(true);
  send(2);
  await two.clock.run(10_000);
  assert.deepEqual(heard.at(-1), "Unavailable");
  assert.deepEqual(two.got, ["frame 0", "frame 1", "cancelled"]);
});

test("a process that dies resets its streams, and does nothing any more", async () => {
  const two = twoRanks();
  const { heard, send } = dispatching(two);
  send(0);
  await two.clock.run(50);
  send(1);
  two.kill(two.server);
  await two.clock.run(50);
  assert.deepEqual(heard, ["reply 0", "Unavailable"]);
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
