// Mutual TLS, identity, limits and error mapping of the gRPC adapter, on loopback with real certificates.
import assert from "node:assert/strict";
import { type EventEmitter, once } from "node:events";
import { type AddressInfo, connect as connectTcp, createServer as createTcp, type Socket } from "node:net";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { AppError } from "../../crds/common.ts";
import { createTestCa, type TestCa } from "../../test/kit/network/certs.ts";
import { within } from "../../test/kit/wait.ts";
import { Control, WatchPushSchema, WatchStatusSchema } from "./gen/enodia/runtime/v1/runtime_pb.js";
import { callerOf, connect, createServer, fromStatus, type GrpcServer, messageBytesMax } from "./grpc.ts";
import type { Handlers } from "./service.ts";
import { serverNames } from "./tls.ts";

const ns = "default";
const name = "mix";
let ca: TestCa;
let server: GrpcServer;
let serverTls: ReturnType<TestCa["issue"]>;
let address: string;
const closers: (() => void)[] = [];

const unsupported = () => Promise.reject(new AppError("not in this test", { code: "NotFound" }));
const handlers: Handlers<(typeof Control)["method"]> = {
  describe: async (_request, call) => {
    const who = callerOf(call, ns, name);
    return { podName: who.role === "worker" ? `worker ${who.rank} ${who.podName}` : who.role };
  },
  snapshot: unsupported,
  commit: () => Promise.reject(new AppError("epoch 3 is not above 4", { code: "StalePlan" })),
  abort: unsupported,
  release: unsupported,
  drain: unsupported,
  prepare: (call) => call.end(),
  watch: (call) => {
    call.on("data", ({ logLevel }) =>
      call.write(create(WatchStatusSchema, { planHash: logLevel, hosted: logLevel === "many" ? [{}, {}] : [] })),
    );
    call.on("end", () => call.end());
  },
};

before(async () => {
  ca = createTestCa();
  serverTls = ca.issue("rank-0", ns, name);
  server = createServer(serverTls);
  server.add(Control, handlers);
  address = `127.0.0.1:${await server.listen("127.0.0.1", 0)}`;
});
after(async () => {
  for (const close of closers) close();
  await server.close(200);
});

async function controlAs(member: string, expect = "rank-0", issuer = ca) {
  const client = connect(Control, { address, serverName: `${expect}.${name}.${ns}.enodia`, tls: issuer.issue(member, ns, name) });
  closers.push(client.close);
  return client;
}

test("an answer of more values than its caller takes is refused, and the next one is read", async () => {
  const answer = { bytesMax: 1_000, valuesMax: 3 };
  const tls = ca.issue("operator", ns, name);
  const client = connect(Control, { address, serverName: `rank-0.${name}.${ns}.enodia`, tls, answer });
  closers.push(client.close);
  const watched = async (fields: MessageInitShape<typeof WatchPushSchema>) => {
    const stream = client.watch();
    stream.write(create(WatchPushSchema, fields));
    const [status] = await Promise.race([once(stream, "data"), once(stream, "error")]);
    stream.on("error", () => {}).cancel();
    return status;
  };
  await assert.rejects(
    watched({ logLevel: "many" }).catch((caught) => Promise.reject(fromStatus(caught, "Watch"))),
    {
      code: "InvalidRequest",
      message: /more than 3 values/,
    },
  );
  await assert.rejects(watched({ logLevel: "x".repeat(1_001) }), /larger than max/);
  assert.equal((await watched({ logLevel: "few" })).planHash, "few");
});

test("the server learns rank and pod name from the caller's certificate", async () => {
  assert.equal((await (await controlAs("rank-7")).describe({})).podName, "worker 7 rank-7");
  assert.equal((await (await controlAs("operator")).describe({})).podName, "operator");
});

test("a certificate of another deployment is a stranger", async () => {
  const client = connect(Control, { address, serverName: serverNames.rank(0, ns, name), tls: ca.issue("operator", ns, "other") });
  closers.push(client.close);
  await assert.rejects(client.describe({}), (error) => fromStatus(error, "describe").code === "Unauthenticated");
});

test("a caller whose certificate another CA signed gets no connection", async () => {
  const client = await controlAs("operator", "rank-0", createTestCa());
  await assert.rejects(client.describe({}, { deadline: Date.now() + 3000 }), (error) =>
    ["Unavailable", "DeadlineExceeded"].includes(fromStatus(error, "x").code),
  );
});

test("a server that presents another rank's certificate is refused by the caller", async () => {
  const client = await controlAs("operator", "rank-1");
  await assert.rejects(client.describe({}, { deadline: Date.now() + 3000 }), (error) =>
    ["Unavailable", "DeadlineExceeded"].includes(fromStatus(error, "x").code),
  );
});

test("a process that is not there is told in words", async () => {
  const client = connect(Control, {
    address: "127.0.0.1:9",
    serverName: serverNames.rank(0, ns, name),
    tls: ca.issue("operator", ns, name),
  });
  closers.push(client.close);
  await assert.rejects(
    client.describe({}),
    (error) => fromStatus(error, "describe").message === "no connection to the process: nothing listens there (ECONNREFUSED)",
  );
});

test("no text of the library reaches a condition, whatever the status", () => {
  for (const [code, details, want] of [
    [1, "Cancelled on client", "the call was ended"],
    [2, "Unknown Error", "the call broke off"],
    [4, "Deadline exceeded after 5.001s,remote_addr=10.0.0.1:9440", "the process did not answer in time"],
    [7, "denied", "the process refuses the call"],
    [8, "Received message larger than max (5 vs 4)", "a message is larger than it may be: 5 vs 4"],
    [12, "The server does not implement the method", "the process is of a version without this call"],
    [
      13,
      "Received RST_STREAM with code 2 triggered by internal client error: read ECONNRESET",
      "the call broke off: the connection was reset (ECONNRESET)",
    ],
    [13, "Received RST_STREAM with code 2 (Internal server error)", "the call broke off: RST_STREAM with code 2"],
    [13, "Response message parsing error: too many values", "its answer cannot be read: too many values"],
    [
      14,
      "No connection established. Last error: Error: connect EHOSTUNREACH 10.0.0.1:9440",
      "no connection to the process: no way to the host (EHOSTUNREACH)",
    ],
    [14, "read EBADF", "no connection to the process: EBADF"],
  ] as const)
    assert.equal(fromStatus(Object.assign(new Error(`${code} X: ${details}`), { code, details }), "Describe").message, want);
});

test("an AppError crosses the wire with its code and message", async () => {
  const client = await controlAs("operator");
  await assert.rejects(client.commit({}), (error) => {
    const app = fromStatus(error, "commit");
    return app.code === "StalePlan" && app.message === "epoch 3 is not above 4";
  });
});

test("a message of 8 MiB travels both ways, one above the limit does not and the server lives on", async () => {
  const client = await controlAs("operator");
  const roundTrip = (bytes: number) =>
    new Promise<number>((resolve, reject) => {
      const stream = client.watch();
      stream.on("data", ({ planHash }) => {
        resolve(planHash.length);
        stream.end();
      });
      stream.on("error", reject);
      stream.write(create(WatchPushSchema, { logLevel: "x".repeat(bytes) }));
    });
  assert.equal(await roundTrip(8 * 1024 * 1024), 8 * 1024 * 1024);
  await assert.rejects(roundTrip(messageBytesMax + 1));
  assert.equal(await roundTrip(4), 4);
});

test("renewed certificates serve new connections without a restart", async () => {
  const renewed = ca.issue("rank-3", ns, name);
  const source = serverTls;
  const old = source.current();
  source.update(renewed.current());
  await (await controlAs("operator", "rank-3")).describe({});
  source.update(old);
  await (await controlAs("operator", "rank-0")).describe({});
});

test("a connection that never finishes its handshake does not keep a server open", async () => {
  const own = createServer(serverTls);
  const silent = connectTcp(await own.listen("127.0.0.1", 0), "127.0.0.1");
  await once(silent, "connect");
  await new Promise((resolve) => setTimeout(resolve, 50)); // until the server has taken it
  const late = new Promise((_, reject) => setTimeout(reject, 2_000, new Error("the server is open for 2 s")).unref());
  await Promise.race([Promise.all([own.close(0), once(silent, "close")]), late]).finally(() => silent.destroy());
});

test("a server that is closed has its running calls answered, for as long as it waits", async () => {
  for (const [graceMs, answered] of [
    [10_000, true],
    [50, false],
  ] as const) {
    const leaving = createServer(ca.issue("rank-0", ns, name));
    const { promise: asked, resolve: isAsked } = Promise.withResolvers<void>();
    const describe = async () => {
      isAsked();
      await sleep(500);
      return { podName: "late" };
    };
    leaving.add(Control, { ...handlers, describe });
    const late = `127.0.0.1:${await leaving.listen("127.0.0.1", 0)}`;
    const client = connect(Control, { address: late, serverName: serverNames.rank(0, ns, name), tls: ca.issue("operator", ns, name) });
    closers.push(client.close);
    const call = client.describe({}).then(
      ({ podName }) => podName === "late",
      () => false,
    );
    await asked;
    await within(5_000, leaving.close(graceMs), "the close ends");
    assert.equal(await call, answered);
  }
});

test("a server that is closed before it listens fails its start", async () => {
  const unbound = createServer(serverTls);
  const listening = unbound.listen("127.0.0.1", 0);
  await Promise.all([assert.rejects(within(5_000, listening, "the start fails"), { code: "Cancelled" }), unbound.close(0)]);
});

test("a caller that has fallen silent does not keep a server open", async () => {
  const own = createServer(serverTls);
  let called = () => {};
  const call = new Promise<void>((resolve) => {
    called = resolve;
  });
  own.add(Control, { watch: (stream: EventEmitter) => void stream.on("data", called) } as never);
  const port = await own.listen("127.0.0.1", 0);
  // A way that loses everything from some moment on, as a link that is cut.
  const pairs: Socket[] = [];
  const way = createTcp((near) => {
    const far = connectTcp(port, "127.0.0.1");
    pairs.push(near, far);
    near.pipe(far).pipe(near);
  });
  await new Promise<void>((resolve) => way.listen(0, "127.0.0.1", resolve));
  const via = `127.0.0.1:${(way.address() as AddressInfo).port}`;
  const client = connect(Control, { address: via, serverName: serverNames.rank(0, ns, name), tls: ca.issue("operator", ns, name) });
  const stream = client.watch();
  stream.on("error", () => {});
  stream.write(create(WatchPushSchema, {}));
  await call;
  for (const socket of pairs) {
    socket.unpipe();
    socket.pause();
  }
  const late = new Promise((_, reject) => setTimeout(reject, 2_000, new Error("the server is open for 2 s")).unref());
  await Promise.race([own.close(0), late]).finally(() => {
    for (const socket of pairs) socket.destroy();
    client.close();
    way.close();
  });
});
