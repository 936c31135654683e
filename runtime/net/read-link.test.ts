// Bulk reads on loopback: order, back-pressure, connections that are used again, and what becomes of reads whose other end fails.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { connect as connectTls, type PeerCertificate, type TLSSocket } from "node:tls";
import { AppError } from "../../crds/common.ts";
import { createTestCa } from "../../test/kit/network/certs.ts";
import { until, within } from "../../test/kit/wait.ts";
import { encodeFrame, frameKinds } from "./frame-codec.ts";
import { Channel, type Hello } from "./gen/enodia/runtime/v1/runtime_pb.js";
import { callerOf, createServer, type GrpcServer } from "./grpc.ts";
import { createTlsListener, type Listener } from "./listener.ts";
import { toSender } from "./mapping.ts";
import { encodeHello, none, type PeerConnection, peerAlpn } from "./peer-connection.ts";
import { type ReadCall, ReadHost, serveReads } from "./read-host.ts";
import { type BulkRead, connectReads, type ReadLink } from "./read-link.ts";
import { serverNames } from "./tls.ts";

const mebibyte = 1024 * 1024;
const ca = createTestCa();
const [hostTls, tls] = [ca.issue("rank-0", "default", "mix"), ca.issue("rank-1", "default", "mix")];
const serverName = serverNames.rank(0, "default", "mix");
const self = { deploymentUid: "uid", rank: 1, podUid: "u", bootId: "b" };
const calls = new Set<ReadCall>();
let sent = 0;
let isMember = true;
let served: (name: string, call: ReadCall) => Promise<void>;
let server: GrpcServer;
let link: ReadLink;
let port: number;

before(async () => {
  server = createServer(hostTls);
  const file = async ({ name }: { readonly name: string }, call: ReadCall) => {
    calls.add(call);
    await served(name, call).finally(() => calls.delete(call));
  };
  const admit = (call: Pick<ReadCall, "getAuthContext">) => {
    if (callerOf(call, "default", "mix").role !== "worker" || !isMember) throw new AppError("only workers read", { code: "Forbidden" });
  };
  server.addReads(new ReadHost({ file }), "uid", admit);
  port = await server.listen("127.0.0.1", 0);
  link = connectReads({ address: `127.0.0.1:${port}`, serverName, tls, self });
});
after(async () => {
  link.close();
  await server.close(200);
});

const reading = (name: string, from = link): BulkRead => from.read({ case: "file", value: { name } });

async function bytesOf(read: BulkRead): Promise<string> {
  const pieces: Uint8Array[] = [];
  for await (const { offset, data } of read) {
    assert.equal(
      Number(offset),
      pieces.reduce((sum, { byteLength }) => sum + byteLength, 0),
    );
    pieces.push(data.slice());
  }
  return Buffer.concat(pieces).toString();
}

/** Says its name twice. */
const twice = async (name: string, call: ReadCall) => {
  for (const at of [0, 1]) await call.send(at * name.length, Buffer.from(name));
};

test("reads come in order, beside and after each other, also when some are refused", async () => {
  served = async (name, call) => {
    if (name.startsWith("no")) throw new AppError(`${name} is not here`, { code: "NotHosted" });
    await twice(name, call);
  };
  for (let round = 0; round < 3; round++) {
    const answers = await Promise.allSettled(["a", "no", "bc", "", "nor"].map((name) => bytesOf(reading(name))));
    const seen = answers.map((one) => (one.status === "fulfilled" ? one.value : [one.reason.code, one.reason.message].join()));
    assert.deepEqual(seen, ["aa", "NotHosted,no is not here", "bcbc", "", "NotHosted,nor is not here"]);
  }
  await assert.rejects(bytesOf(link.read({ case: "list", value: {} })), { code: "InvalidRequest", message: /no list reads/ });
});

test("a reader that takes no chunks holds up its sender, and nobody else", async () => {
  const chunks = 40;
  served = async (name, call) => {
    if (name === "other") return twice(name, call);
    for (let i = 0; i < chunks; i++) {
      await call.send(i * mebibyte, Buffer.alloc(mebibyte));
      sent += 1;
    }
  };
  const read = reading("large");
  const iterator = read[Symbol.asyncIterator]();
  await iterator.next();
  let before = -1;
  await until("the sender stands still", async () => {
    const still = sent === before;
    before = sent;
    await new Promise((resolve) => setTimeout(resolve, 300));
    return still && sent === before;
  });
  assert.ok(sent < 30, `${sent} of ${chunks} MiB have left while one was read`);
  assert.equal(await bytesOf(reading("other")), "otherother");
  let rest = 1;
  for (let next = await iterator.next(); !next.done; next = await iterator.next()) rest += 1;
  assert.equal(rest, chunks);
});

test("a read that is cancelled or left ends at both ends, and the next one is whole", async () => {
  served = async (name, call) => {
    if (name === "whole") return twice(name, call);
    await call.send(0, Buffer.from("x"));
    await new Promise((resolve) => call.signal.addEventListener("abort", resolve));
    await call.send(1, Buffer.from("y"));
  };
  const cancelled = reading("cancelled");
  const ended = assert.rejects(bytesOf(cancelled), { code: "Cancelled" });
  await until("it is served", () => calls.size === 1);
  cancelled.cancel();
  await ended;
  for await (const _ of reading("left")) break;
  await within(
    2_000,
    until("nothing is served", () => calls.size === 0),
    "the end",
  );
  assert.equal(await bytesOf(reading("whole")), "wholewhole");
});

test("a read under way ends where its caller is a member no more, and no other begins", async () => {
  served = async (name, call) => {
    await call.send(0, Buffer.from("x"));
    isMember = false;
    await twice(name, call);
  };
  await assert.rejects(bytesOf(reading("leaves")), { code: "Forbidden" });
  await assert.rejects(bytesOf(reading("again")), { code: "Forbidden" });
  isMember = true;
});

test("callers of another deployment, of another role, and those without a certificate that is known, get nothing", async () => {
  served = twice;
  const other = connectReads({ address: `127.0.0.1:${port}`, serverName, tls, self: { ...self, deploymentUid: "other" } });
  const stranger = connectReads({ address: `127.0.0.1:${port}`, serverName, tls: createTestCa().issue("rank-1", "default", "mix"), self });
  const operator = connectReads({ address: `127.0.0.1:${port}`, serverName, tls: ca.issue("operator", "default", "mix"), self });
  const nowhere = connectReads({ address: "no address", serverName, tls, self });
  try {
    await assert.rejects(bytesOf(reading("a", other)), { code: "Forbidden" });
    await assert.rejects(bytesOf(reading("a", operator)), { code: "Forbidden" }, "already its hello");
    await assert.rejects(bytesOf(reading("a", stranger)), { code: "Unavailable" });
    await assert.rejects(bytesOf(reading("a", nowhere)), AppError);
  } finally {
    for (const each of [other, stranger, operator, nowhere]) each.close();
  }
});

/** A host that answers a read with these frames, however wrong. */
async function lying(frames: readonly Uint8Array[]): Promise<{ readonly link: ReadLink; readonly listener: Listener }> {
  const listener = createTlsListener(hostTls, {
    [peerAlpn]: (socket) => socket.once("data", () => socket.once("data", () => frames.forEach((frame) => void socket.write(frame)))),
  });
  const at = await listener.listen("127.0.0.1", 0);
  return { listener, link: connectReads({ address: `127.0.0.1:${at}`, serverName, tls, self }) };
}

const bytesOfFrame = (kind: (typeof frameKinds)[keyof typeof frameKinds], head = none, body = none): Uint8Array =>
  Buffer.concat(encodeFrame({ kind, head, body }).filter((piece) => piece !== undefined));

const lies: Readonly<Record<string, { frames: readonly Uint8Array[]; code: string }>> = {
  "a frame of rows": { frames: [bytesOfFrame(frameKinds.rows)], code: "InvalidFrame" },
  "a frame of no kind": { frames: [Buffer.from([4, 0, 0, 0, 99, 0, 0, 0])], code: "InvalidFrame" },
  "a length beyond the bound": { frames: [Buffer.from([255, 255, 255, 255, 10, 0, 0, 0])], code: "InvalidFrame" },
  "a head that is no message": { frames: [bytesOfFrame(frameKinds.chunk, Buffer.from([255]), Buffer.from("x"))], code: "Internal" },
  "a refusal without a code": { frames: [bytesOfFrame(frameKinds.declined)], code: "InvalidFrame" },
};

for (const [lie, { frames, code }] of Object.entries(lies))
  test(`a host that answers ${lie} is left`, async () => {
    const { link: lied, listener } = await lying(frames);
    try {
      await assert.rejects(within(30_000, bytesOf(reading("a", lied)), "the end"), { code });
    } finally {
      lied.close();
      listener.cut();
      await listener.stop();
    }
  });

async function calling(): Promise<TLSSocket> {
  const { cert, key, ca: roots } = tls.current();
  const socket = connectTls({ host: "127.0.0.1", port, cert, key, ca: roots, servername: serverName, ALPNProtocols: [peerAlpn] });
  await new Promise((resolve) => socket.once("secureConnect", resolve));
  socket.on("error", () => {});
  return socket;
}

test("a caller that asks twice at once, or sends what is no read or more than one needs, is cut, and honest reads go on", async () => {
  served = (name, call) => (name ? twice(name, call) : new Promise((resolve) => call.signal.addEventListener("abort", () => resolve())));
  const hello = bytesOfFrame(frameKinds.hello, Buffer.from(encodeHello({ sender: toSender(self), channel: Channel.BULK })));
  const fileRead = bytesOfFrame(frameKinds.read, Buffer.from([0x12, 0]));
  const wrong = [[fileRead, fileRead], [bytesOfFrame(frameKinds.chunk)], [bytesOfFrame(frameKinds.read, Buffer.from([255]))]];
  wrong.push([bytesOfFrame(frameKinds.read, none, Buffer.alloc(mebibyte))], [bytesOfFrame(frameKinds.read, Buffer.alloc(mebibyte))]);
  for (const frames of wrong) {
    const socket = await calling();
    const closed = new Promise((resolve) => socket.once("close", resolve));
    socket.resume();
    for (const frame of [hello, ...frames]) socket.write(frame);
    await within(6_000, closed, "the cut"); // before it is one for silence
    assert.equal(await bytesOf(reading("a")), "aa");
  }
  await until("nothing is served", () => calls.size === 0);
});

test("a caller that reads no answers may not ask for ever", async () => {
  let written = 0;
  const write = () => {
    written += 1;
  };
  const connection = { write, destroy: () => {} } as unknown as PeerConnection;
  const hello = { sender: toSender(self) } as Hello;
  const { frame } = serveReads(new ReadHost({}), "uid", () => {})({ connection, hello, certificate: {} as PeerCertificate });
  const ask = async () => {
    frame({ kind: frameKinds.read, head: none, body: none });
    await new Promise((resolve) => setImmediate(resolve));
  };
  await assert.rejects(
    async () => {
      for (let i = 0; i < 1_000; i++) await ask();
    },
    { code: "Busy" },
  );
  assert.ok(written > 0 && written < 100, `${written} answers`);
});

test("a host that closes ends the connections on which nobody reads, and does not wait for their idle time", async () => {
  const closing = createServer(hostTls);
  let release = () => {};
  const gate = new Promise<void>((resolve) => {
    release = resolve;
  });
  const file = async ({ name }: { readonly name: string }, call: ReadCall) => {
    if (name === "held") await gate;
    await twice(name, call);
  };
  closing.addReads(new ReadHost({ file }), "uid", () => {});
  const at = await closing.listen("127.0.0.1", 0);
  const own = connectReads({ address: `127.0.0.1:${at}`, serverName, tls, self });
  const held = bytesOf(reading("held", own));
  assert.equal(await bytesOf(reading("a", own)), "aa");
  const startedAt = performance.now();
  const closed = closing.close(20_000);
  setTimeout(release, 300);
  assert.equal(await held, "heldheld", "what is read is served to its end");
  await closed;
  assert.ok(performance.now() - startedAt < 10_000);
  own.close();
});

test("a chunk that comes slowly is no silence", async (t) => {
  let now = 1_000;
  t.mock.timers.enable({ apis: ["setInterval"] });
  t.mock.method(performance, "now", () => now);
  let chunk: ((data: Uint8Array) => void) | undefined;
  const listener = createTlsListener(hostTls, {
    [peerAlpn]: (socket) => {
      socket.on("error", () => {}).resume();
      chunk = (data) => void socket.write(data);
    },
  });
  const slow = connectReads({ address: `127.0.0.1:${await listener.listen("127.0.0.1", 0)}`, serverName, tls, self });
  t.after(async () => {
    slow.close();
    listener.cut();
    await listener.stop();
  });
  const seconds = 20;
  const text = "x".repeat(1_000);
  const frame = Buffer.concat([bytesOfFrame(frameKinds.chunk, none, Buffer.from(text)), bytesOfFrame(frameKinds.chunk)]);
  const read = bytesOf(reading("slow", slow));
  read.catch(() => {});
  await until("it is connected", () => chunk !== undefined);
  for (let i = 0; i < seconds; i++) {
    await new Promise((resolve) => setTimeout(resolve, 20));
    chunk?.(frame.subarray(Math.floor((i * frame.byteLength) / seconds), Math.floor(((i + 1) * frame.byteLength) / seconds)));
    await new Promise((resolve) => setTimeout(resolve, 20));
    now += 1_000;
    t.mock.timers.tick(500);
  }
  assert.equal(await read, text);
  const silent = bytesOf(reading("silent", slow));
  silent.catch(() => {});
  for (let i = 0; i < seconds; i++) {
    await new Promise((resolve) => setTimeout(resolve, 10));
    now += 1_000;
    t.mock.timers.tick(500);
  }
  await assert.rejects(silent, { code: "Silent" });
});
