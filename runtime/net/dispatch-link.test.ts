// Streams of dispatch frames between two ends on loopback, with real certificates: order, bounds and ends, and that no stranger, no
// silent or greedy caller and no noise costs more than its own connection.
import assert from "node:assert/strict";
import { once } from "node:events";
import { type AddressInfo, connect as connectTcp, createServer as createTcp, type Socket } from "node:net";
import { after, before, type TestContext, test } from "node:test";
import { connect as connectTls, type TLSSocket } from "node:tls";
import { create } from "@bufbuild/protobuf";
import { AppError } from "../../crds/common.ts";
import { createTestCa, type TestCa } from "../../test/kit/network/certs.ts";
import type { DispatchServed } from "./dispatch-accept.ts";
import { connectDispatch, type DispatchCall } from "./dispatch-link.ts";
import { encodeFrame, frameBytesMax, frameKinds } from "./frame-codec.ts";
import { unsentBytesMax } from "./frame-socket.ts";
import { Channel, DispatchFrameSchema, type DispatchReply, DispatchReplySchema } from "./gen/enodia/runtime/v1/runtime_pb.js";
import { createServer } from "./grpc.ts";
import { encodeHello, peerAlpn } from "./peer-connection.ts";
import type { TlsSource } from "./tls.ts";

const [ns, name] = ["default", "mix"];
const self = { deploymentUid: "d", rank: 1, podUid: "u1", bootId: "b1" };
const serverName = `rank-0.${name}.${ns}.enodia`;
let ca: TestCa;
let hostTls: TlsSource;
let callerTls: TlsSource;
before(() => {
  ca = createTestCa();
  [hostTls, callerTls] = [ca.issue("rank-0", ns, name), ca.issue("rank-1", ns, name)];
});

const soon = <T>(promise: Promise<T>, what: string): Promise<T> => {
  const late = new Promise<never>((_, reject) => setTimeout(reject, 5_000, new Error(`${what}: not within 5 s`)).unref());
  return Promise.race([promise, late]);
};
const frame = (seq: number, bytes = 4) =>
  create(DispatchFrameSchema, { seq: BigInt(seq), rows: new Uint8Array(bytes).fill(seq), pairRows: [seq, 0], pairExperts: [1, seq] });

/** A host that does with each stream what `serve` says, and keeps them. */
async function hosted(t: TestContext, serve: (call: DispatchServed) => void = echo) {
  const server = createServer(hostTls);
  const calls: DispatchServed[] = [];
  const broke: string[] = [];
  server.addDispatch((call) => {
    calls.push(call);
    call.on("error", ({ message }) => broke.push(message));
    serve(call);
  });
  const port = await server.listen("127.0.0.1", 0);
  t.after(() => server.close(0));
  return { server, port, calls, broke };
}

function echo(call: DispatchServed): void {
  call.on("data", ({ seq, rows }) => call.write(create(DispatchReplySchema, { seq, result: { case: "rows", value: rows } }), () => {}));
}

function opened(t: TestContext, port: number, tls = callerTls, name = serverName) {
  const link = connectDispatch({ address: `127.0.0.1:${port}`, serverName: name, tls, self });
  const call = link.dispatch();
  const replies: DispatchReply[] = [];
  call.on("data", (reply) => replies.push(reply));
  t.after(() => {
    call.cancel();
    link.close();
  });
  return { link, call, replies };
}

/** The way in which a stream ended: the code of its error, or "end". */
const ending = (call: DispatchCall): Promise<string> =>
  new Promise((resolve) => {
    call.on("error", (error) => resolve(error instanceof AppError ? error.code : error.name));
    call.on("end", () => resolve("end"));
  });

/** A caller by its bytes. */
async function raw(t: TestContext, port: number, protocol: string | undefined = peerAlpn): Promise<TLSSocket> {
  const own = { ...callerTls.current(), servername: serverName, ...(protocol ? { ALPNProtocols: [protocol] } : {}) };
  const socket = connectTls({ ...own, host: "127.0.0.1", port });
  t.after(() => socket.destroy());
  await soon(once(socket, "secureConnect"), "a connection");
  if (protocol)
    socket.write(encodeFrame({ kind: frameKinds.hello, head: encodeHello({ channel: Channel.DISPATCH }), body: new Uint8Array(0) })[0]);
  return socket;
}
const ended = async (socket: Socket): Promise<void> => {
  socket.on("error", () => {}); // a reset is an end too
  socket.resume();
  if (!socket.destroyed) await soon(once(socket, "close"), "an end");
};

test("many frames of all sizes that are sent at once arrive whole and in order, and so do their answers", async (t) => {
  const got: bigint[] = [];
  const { port } = await hosted(t, (call) => {
    call.on("data", ({ seq, rows, pairExperts }) => {
      assert.deepEqual([rows.at(0), rows.at(-1), pairExperts[1]], [rows.at(-1), rows.length ? Number(seq) % 256 : undefined, Number(seq)]);
      got.push(seq);
    });
    echo(call);
  });
  const { call, replies } = opened(t, port);
  const sizes = Array.from({ length: 300 }, (_, i) => (i % 100 === 7 ? 1_000_000 : 4 * (i % 900)));
  for (const [i, bytes] of sizes.entries()) call.write(frame(i, bytes));
  await soon(new Promise<void>((resolve) => call.on("data", () => replies.length === sizes.length && resolve())), "all answers");
  const seqs = sizes.map((_, i) => BigInt(i));
  assert.deepEqual([got, replies.map(({ seq }) => seq)], [seqs, seqs]);
  assert.deepEqual(
    replies.map(({ result }) => result.case === "rows" && result.value.byteLength),
    sizes,
  );
});

test("the largest rows travel both ways; larger ones end their own stream before they are sent", async (t) => {
  const { port } = await hosted(t);
  const { call, replies } = opened(t, port);
  call.write(frame(1, frameBytesMax));
  await soon(once(call, "data"), "an answer");
  const [reply] = replies;
  assert.equal(reply?.result.case === "rows" && reply.result.value.byteLength, frameBytesMax);
  const end = ending(call);
  call.write(frame(2, frameBytesMax + 4));
  assert.equal(await soon(end, "an end"), "MessageTooLarge");
});

test("a reply that is too large to be sent ends its stream, with the reason on both sides", async (t) => {
  let left = 0;
  const { port, calls } = await hosted(t, (call) => {
    const result = { case: "rows", value: new Uint8Array(frameBytesMax + 4) } as const;
    call.on("data", ({ seq }) => call.write(create(DispatchReplySchema, { seq, result }), () => left++));
  });
  const { call } = opened(t, port);
  const end = ending(call);
  call.write(frame(1));
  assert.equal(await soon(end, "an end"), "MessageTooLarge");
  assert.deepEqual([left, calls[0]?.over], [1, true]);
});

test("a host learns who calls, and its last words reach the caller", async (t) => {
  const { port } = await hosted(t, (call) => {
    const name = call.getAuthContext().sslPeerCertificate?.subjectaltname ?? "";
    call.fail(new AppError(`not you: ${name.split(",")[0]}`, { code: "Forbidden" }));
  });
  const { call } = opened(t, port);
  const [error] = await soon(
    once(call, "error").catch((caught) => [caught]),
    "an error",
  );
  assert.deepEqual([error.code, error.message], ["Forbidden", "not you: DNS:rank-1.mix.default.enodia"]);
});

test("strangers get no stream: a certificate of another CA, none that the caller expects, another protocol, none", async (t) => {
  const { port, calls } = await hosted(t);
  const stranger = createTestCa().issue("rank-1", ns, name);
  assert.equal(await soon(ending(opened(t, port, stranger).call), "a refusal by the caller"), "Unavailable");
  stranger.update({ ...stranger.current(), ca: callerTls.current().ca });
  assert.match(await soon(ending(opened(t, port, stranger).call), "a refusal by the host"), /^(?:end|Unavailable)$/);
  assert.equal(await soon(ending(opened(t, port, callerTls, `rank-3.${name}.${ns}.enodia`).call), "a refusal"), "Unavailable");
  await assert.rejects(raw(t, port, "enodia/999"), /no_application_protocol|no application protocol/);
  await ended(await raw(t, port, ""));
  assert.equal(calls.length, 0);
});

test("what is no frame ends its stream with a reason that the host hears, and the next caller is served", async (t) => {
  const { port, broke } = await hosted(t);
  const head = new Uint8Array(0);
  const oversized = Buffer.alloc(8);
  oversized.writeUInt32LE(4 + frameBytesMax + 4, 0);
  oversized.writeUInt32LE(frameKinds.rows, 4);
  const [whole] = encodeFrame({ kind: frameKinds.rows, head, body: new Uint8Array(64) });
  const [reply] = encodeFrame({ kind: frameKinds.reply, head, body: head });
  for (const bytes of [oversized, reply, Buffer.from("HEAD / HTTP/1.1\r\n\r\n")]) {
    const socket = await raw(t, port);
    socket.write(bytes);
    await ended(socket);
  }
  const cut = await raw(t, port);
  cut.end(whole.subarray(0, 40));
  await ended(cut);
  assert.deepEqual(
    broke.map((why) => /rows of 8388612 bytes|kind \d+|within a frame/.exec(why)?.[0].replace(/\d+$/, "N")),
    ["rows of 8388612 bytes", "kind N", "kind N", "within a frame"],
  );
  const { call } = opened(t, port);
  call.write(frame(1));
  await soon(once(call, "data"), "an answer");
});

test("a caller that has said nothing for 8 s is gone; one that speaks, or was not heard while this process stood still, is not", async (t) => {
  let now = 1_000;
  t.mock.timers.enable({ apis: ["setInterval"] });
  t.mock.method(performance, "now", () => now);
  const pass = (ms: number): void => {
    now += ms;
    t.mock.timers.tick(1_000);
  };
  const { port, broke } = await hosted(t);
  const { call } = opened(t, port);
  const speak = async (): Promise<void> => {
    call.write(frame(1));
    await once(call, "data");
  };
  await speak();
  pass(60_000);
  for (let i = 0; i < 5; i++) pass(1_000);
  assert.deepEqual(broke, []);
  await speak();
  for (let i = 0; i < 7; i++) pass(1_000);
  assert.deepEqual(broke, []);
  const end = ending(call);
  pass(1_000);
  assert.deepEqual(broke, ["the caller said nothing for 8000 ms"]);
  assert.match(await end, /^(?:end|Unavailable)$/);
});

test("a caller that reads nothing: answers have left when it took them and not before, and it is cut with its last words unread", async (t) => {
  let left = 0;
  const { port, calls } = await hosted(t, (call) => {
    const value = new Uint8Array(frameBytesMax);
    call.on("data", ({ seq }) => call.write(create(DispatchReplySchema, { seq, result: { case: "rows", value } }), () => left++));
  });
  const socket = await raw(t, port);
  socket.pause();
  const [ask] = encodeFrame({ kind: frameKinds.rows, head: new Uint8Array(0), body: new Uint8Array(4) });
  for (let i = 0; i < 8; i++) socket.write(ask);
  await new Promise((resolve) => setTimeout(resolve, 100));
  assert.ok(left < 8, `${left} answers of 8 MiB have left`);
  calls[0]?.fail(new AppError("the peer reads no answers", { code: "Busy" }));
  assert.equal(calls[0]?.over, true);
  const cut = new Promise((resolve) => socket.once("close", resolve));
  await new Promise((resolve) => setTimeout(resolve, 1_100)); // its last words have had their time
  socket.on("error", () => {});
  socket.resume();
  await soon(cut, "an end");
});

test("a writer is told when its socket is full, and when it is not any more", async (t) => {
  const { port } = await hosted(t, (call) => {
    call.on("data", ({ seq }) => call.write(create(DispatchReplySchema, { seq }), () => {}));
  });
  const way = await gate(t, port);
  way.open();
  const { call } = opened(t, way.port);
  call.write(frame(1));
  await soon(once(call, "data"), "an answer");
  way.hold();
  const room = once(call, "drain");
  const took = Array.from({ length: 16 }, (_, i) => call.write(frame(i, unsentBytesMax)));
  assert.equal(took.includes(false), true);
  const first = await Promise.race([room.then(() => "room"), new Promise((resolve) => setTimeout(resolve, 100, "none"))]);
  assert.equal(first, "none");
  way.open();
  await soon(room, "room");
});

/** A way to `port` that lets nothing through until it is open, and nothing towards it while it is held. */
async function gate(t: TestContext, port: number) {
  const joins = new Map<Socket, Socket | undefined>();
  let isOpen = false;
  const join = (near: Socket): void => {
    const far = joins.get(near) ?? connectTcp(port, "127.0.0.1");
    if (!joins.get(near)) far.pipe(near);
    joins.set(near, far);
    near.pipe(far);
  };
  const way = createTcp({ pauseOnConnect: true }, (near) => {
    joins.set(near, undefined);
    if (isOpen) join(near);
  });
  await new Promise<void>((resolve) => way.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    way.close();
    for (const sockets of joins) for (const socket of sockets) socket?.destroy();
  });
  const open = () => {
    isOpen = true;
    for (const near of joins.keys()) join(near);
  };
  const hold = () => {
    for (const near of joins.keys()) near.unpipe().pause();
  };
  return { port: (way.address() as AddressInfo).port, open, hold, connections: () => joins.size };
}

test("a connection that is slow to be made is not begun anew by the next stream, which gets nothing of the one before", async (t) => {
  const got: bigint[] = [];
  const { port } = await hosted(t, (call) => {
    call.on("data", ({ seq }) => got.push(seq));
    echo(call);
  });
  const slow = await gate(t, port);
  const { link, call } = opened(t, slow.port);
  call.write(frame(1));
  call.cancel();
  const next = link.dispatch();
  t.after(() => next.cancel());
  next.write(frame(2));
  next.write(frame(3));
  await new Promise((resolve) => setTimeout(resolve, 20));
  slow.open();
  await soon(once(next, "data"), "an answer");
  assert.deepEqual([got[0], slow.connections()], [2n, 1]);
});

test("a link that closes cuts what is being made, and lets a stream that stands go on; it opens no others", async (t) => {
  const { port } = await hosted(t);
  const slow = await gate(t, port);
  const making = opened(t, slow.port);
  const end = ending(making.call);
  making.link.close();
  assert.equal(await soon(end, "an end"), "Cancelled");
  const { link, call } = opened(t, port);
  call.write(frame(1));
  await soon(once(call, "data"), "an answer");
  link.close();
  call.write(frame(2));
  await soon(once(call, "data"), "an answer");
  assert.equal(await soon(ending(link.dispatch()), "a refusal"), "Cancelled");
});

test("nobody there, and no address at all, are told as such", async (t) => {
  const { port, server } = await hosted(t);
  await server.close(0);
  assert.equal(await soon(ending(opened(t, port).call), "a refusal"), "Unavailable");
  const link = connectDispatch({ address: "no address", serverName, tls: callerTls, self });
  assert.match(await soon(ending(link.dispatch()), "a refusal"), /^(?:Internal|Unavailable)$/);
});

test("a server that closes gives streams their time, and ends those that stay and those in the middle of their handshake", async (t) => {
  const { port, server, calls } = await hosted(t);
  const { call, replies } = opened(t, port);
  call.write(frame(1));
  await soon(once(call, "data"), "an answer");
  const silent = connectTcp(port, "127.0.0.1");
  t.after(() => void silent.destroy());
  await once(silent, "connect");
  const [end, gone] = [ending(call), once(silent, "close")];
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const closing = server.close(150);
  t.mock.timers.tick(149);
  call.write(frame(2));
  await once(call, "data");
  assert.equal(replies.length, 2);
  t.mock.timers.tick(1);
  t.mock.timers.reset();
  await soon(Promise.all([closing, gone]), "the server to close");
  assert.match(await soon(end, "an end"), /^(?:end|Unavailable)$/);
  assert.equal(calls[0]?.over, true);
});

// Looks at streams keep no process alive; the tests' own timer does.
const alive = setInterval(() => {}, 1_000);
after(() => clearInterval(alive));
