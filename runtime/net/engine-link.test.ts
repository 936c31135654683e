// Connections between two ends on loopback, with real certificates: answers in any order, frames that are declined, bounds, and that
// strangers, liars and those that membership has forgotten get none.

import assert from "node:assert/strict";
import { after, before, type TestContext, test } from "node:test";
import { create, toBinary } from "@bufbuild/protobuf";
import type { AppError } from "../../crds/common.ts";
import { createTestCa, type TestCa } from "../../test/kit/network/certs.ts";
import { engineHost } from "../../test/kit/network/engine-host.ts";
import { until } from "../../test/kit/wait.ts";

import type { EngineHostOptions } from "./engine-host.ts";
import { EngineLink, type EngineWork, engineFrameMsMax, onDemandFrameMsMax } from "./engine-link.ts";
import { frameKinds, streamBytesMax } from "./frame-codec.ts";
import { FrameSocket } from "./frame-socket.ts";
import { WelcomeSchema } from "./gen/enodia/runtime/v1/runtime_pb.js";
import { createTlsListener } from "./listener.ts";
import { peerAlpn } from "./peer-connection.ts";
import { type RowsAnswer, sumsForm } from "./rows-codec.ts";
import type { TlsSource } from "./tls.ts";

const [namespace, name] = ["default", "mix"];
const hidden = 4;
const rowBytes = hidden * 4;
let ca: TestCa;
let hostTls: TlsSource;
let callerTls: TlsSource;
before(() => {
  ca = createTestCa();
  [hostTls, callerTls] = [ca.issue("rank-0", namespace, name), ca.issue("rank-1", namespace, name)];
});
const links: EngineLink[] = [];
after(() => {
  for (const link of links) link.close({ message: "the test is over" } as AppError);
});

const hosted = (t: TestContext, own: Partial<EngineHostOptions> = {}) =>
  engineHost(t, { ca, tls: hostTls, namespace, name, hidden, serve: async (_frame, rows) => rows, ...own });

function opened(port: number, own: { tls?: TlsSource; width?: number; serverName?: string; sums?: boolean } = {}) {
  const ended: AppError[] = [];
  const target = {
    address: `127.0.0.1:${port}`,
    serverName: own.serverName ?? `rank-0.${name}.${namespace}.enodia`,
    tls: own.tls ?? callerTls,
  };
  const identity = { deploymentUid: "d", rank: 1, podUid: "u1", bootId: "b" };
  const events = { ready: () => {}, closed: (reason: AppError) => void ended.push(reason) };
  const link = new EngineLink(target, { identity, hidden: own.width ?? hidden, sums: own.sums ?? false }, events);
  links.push(link);
  return { link, ended };
}

const gone = { type: "notHosted", epoch: 3, experts: [5] } as const;
const first = (answer: RowsAnswer | undefined) => (answer instanceof Uint8Array ? answer[0] : answer);

function work(value: number, pairs = 1): EngineWork {
  const indices = Uint32Array.from({ length: pairs }, (_, i) => i);
  const bytes = pairs * rowBytes;
  return {
    ...{ layer: 0, epoch: 1, decode: true, pairRows: indices, pairExperts: indices },
    ...{ rows: () => new Uint8Array(bytes).fill(value), answerBytes: bytes, heldBytes: 2 * bytes },
  };
}

test("answers find their frames in whatever order they come, small ones and large", async (t) => {
  const waiting: (() => void)[] = [];
  const { port } = await hosted(t, {
    serve: (frame, rows) => new Promise((resolve) => waiting.push(() => resolve(frame.layer === 9 ? gone : rows))),
  });
  const { link } = opened(port);
  await until("the connection is ready", () => link.ready);
  const sent = [1, 2, 3].map((value) => link.send(work(value, value === 2 ? 5_000 : 1)));
  const declined = link.send(Object.assign(work(4), { layer: 9 }));
  await until("all have come", () => waiting.length === 4);
  for (const answer of waiting.reverse()) answer();
  assert.deepEqual(
    ((await Promise.all(sent)) as Uint8Array[]).map((rows) => [rows.byteLength, rows[0]]),
    [
      [rowBytes, 1],
      [5_000 * rowBytes, 2],
      [rowBytes, 3],
    ],
  );
  assert.deepEqual(await declined, gone);
});

test("a host that fails at a frame is busy, and answers the next", async (t) => {
  let fails = true;
  const { port } = await hosted(t, { serve: (_frame, rows) => (fails ? Promise.reject(new Error("no expert")) : Promise.resolve(rows)) });
  const { link } = opened(port);
  await until("the connection is ready", () => link.ready);
  assert.deepEqual(await link.send(work(1)), { type: "busy", afterMs: 200 });
  fails = false;
  assert.equal(first(await link.send(work(2))), 2);
});

test("frames are told apart: on demand, of a trace, and why they get no rows", async (t) => {
  const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  const answers: RowsAnswer[] = [gone, { type: "busy", afterMs: 70 }, { type: "rejected", reason: "layer: 9 of 2" }];
  const seen: unknown[] = [];
  const serve: EngineHostOptions["serve"] = async ({ onDemand, traceparent: parent }) => {
    seen.push([onDemand, parent]);
    return answers[seen.length - 1] as RowsAnswer;
  };
  const { port } = await hosted(t, { serve });
  const { link } = opened(port);
  await until("the connection is ready", () => link.ready);
  for (const [i, more] of [{}, { onDemand: true }, { onDemand: true, traceparent }].entries())
    assert.deepEqual(await link.send(Object.assign(work(1), more)), answers[i]);
  assert.deepEqual(seen, [
    [undefined, undefined],
    [true, undefined],
    [true, traceparent],
  ]);
});

test("a frame beyond the bytes of a connection waits for the answers to others, and its rows are made when it is sent", async (t) => {
  const waiting: (() => void)[] = [];
  const { port } = await hosted(t, { serve: (_frame, rows) => new Promise((resolve) => waiting.push(() => resolve(rows))) });
  const { link } = opened(port);
  await until("the connection is ready", () => link.ready);
  let made = 0;
  const large = Object.assign(work(1), { heldBytes: streamBytesMax });
  const rows = () => {
    made += 1;
    return new Uint8Array(rowBytes).fill(2);
  };
  const sent = [link.send(large), link.send(Object.assign(work(2), { rows }))];
  await until("the host has the first", () => waiting.length === 1);
  assert.equal(made, 0);
  waiting[0]?.();
  assert.equal(first(await sent[0]), 1);
  await until("the host has the second", () => waiting.length === 2);
  const last = link.send(large);
  waiting[1]?.();
  assert.equal(first(await sent[1]), 2);
  link.close({ message: "done" } as AppError);
  await assert.rejects(last as Promise<unknown>, "what waits ends with its connection");
});

test("an answer of another length than was asked for ends its connection", async (t) => {
  const { port } = await hosted(t);
  const { link } = opened(port);
  await until("the connection is ready", () => link.ready);
  const wrong = link.send(Object.assign(work(1), { answerBytes: 20 }));
  await assert.rejects(wrong as Promise<unknown>, { code: "InvalidReply", message: /answered 16 bytes/ });
  assert.equal(link.ready, false);
});

test("sums are asked for and answered where both ends can do with them, and a frame that wants them elsewhere ends its connection", async (t) => {
  for (const [asks, answers] of [
    [true, true],
    [true, false],
    [false, true],
    [false, false],
  ] as const) {
    const seen: (Float32Array | undefined)[] = [];
    const serve: EngineHostOptions["serve"] = async ({ gates }, rows) => {
      seen.push(gates);
      return rows;
    };
    const { port, problems } = await hosted(t, { sums: answers, serve });
    const { link, ended } = opened(port, { sums: asks });
    await until("the connection is ready", () => link.ready);
    assert.equal(link.sums, asks && answers);
    assert.equal(first(await link.send(work(1))), 1, "rows of pairs pass in any case");
    const gates = Float32Array.of(0.25, 0.5);
    const rows = new Uint8Array(rowBytes).fill(3); // two rows of halves
    const asked = link.send(Object.assign(work(0, 2), { gates, rows: () => rows, answerBytes: rowBytes }));
    if (asks && answers) {
      assert.deepEqual(await asked, Buffer.from(rows));
      assert.deepEqual(seen, [undefined, gates]);
    } else {
      await assert.rejects(asked as Promise<unknown>);
      assert.equal(ended.length, 1);
      assert.match(problems.join(), /gates: sums were not agreed on/);
      assert.deepEqual(seen, [undefined]);
    }
  }
});

test("a host that says nothing of sums, or speaks of them unasked, is asked for rows of pairs", async (t) => {
  for (const [asks, said, want] of [
    [true, "", false],
    [true, "f8", false],
    [false, sumsForm, false],
    [true, sumsForm, true],
  ] as const) {
    const listener = createTlsListener(hostTls, {
      [peerAlpn]: (socket) => {
        const head = toBinary(WelcomeSchema, create(WelcomeSchema, { sums: said }));
        const body = new Uint8Array(0);
        const frames: FrameSocket = new FrameSocket(socket, {
          frame: () => void frames.write({ kind: frameKinds.welcome, head, body }),
          gone: () => {},
        });
      },
    });
    const port = await listener.listen("127.0.0.1", 0);
    t.after(() => listener.cut());
    t.after(() => listener.stop());
    const { link } = opened(port, { sums: asks });
    await until("the connection is ready", () => link.ready);
    assert.equal(link.sums, want, `asks ${asks}, said "${said}"`);
  }
});

test("who is refused, has another width, another CA, is no worker or not the rank that was meant gets no connection", async (t) => {
  const { port, problems } = await hosted(t, { refuses: ({ rank }) => (rank === 2 ? "not the member of that rank" : undefined) });
  const cases = {
    "is refused": [opened(port, { tls: ca.issue("rank-2", namespace, name) }), /not the member/],
    "another width": [opened(port, { width: 8 }), /hidden: 8, the model has 4/],
    "a gateway": [opened(port, { tls: ca.issue("gateway", namespace, name) }), /names no worker/],
    "another deployment": [opened(port, { tls: ca.issue("rank-1", namespace, "other") }), /names no worker/],
    "another CA": [opened(port, { tls: createTestCa().issue("rank-1", namespace, name) }), undefined],
    "another host": [opened(port, { serverName: `rank-5.${name}.${namespace}.enodia` }), undefined],
  } as const;
  for (const [what, [{ link, ended }, problem]] of Object.entries(cases)) {
    await until(`${what}: the connection ends`, () => ended.length === 1);
    assert.equal(link.send(work(1)), undefined, what);
    if (problem)
      assert.ok(
        problems.some((said) => problem.test(said)),
        `${what}: ${problems}`,
      );
  }
});

test("a caller that membership forgets loses its connection, and with it what it waits for", async (t) => {
  let member = true;
  const { server, port } = await hosted(t, {
    refuses: () => (member ? undefined : "no member of that rank"),
    serve: () => new Promise(() => {}),
  });
  const { link, ended } = opened(port);
  await until("the connection is ready", () => link.ready);
  const sent = link.send(work(1));
  server.recheck();
  assert.equal(server.connections, 1);
  member = false;
  server.recheck();
  await assert.rejects(sent as Promise<unknown>);
  assert.equal(ended.length, 1);
  await until("the host has no connection", () => server.connections === 0);
});

test("a host whose engine says nothing loses the connection after 8 s with frames under way", async (t) => {
  const { port } = await hosted(t, { serve: () => new Promise(() => {}) });
  const { link, ended } = opened(port);
  await until("the connection is ready", () => link.ready);
  const sent = link.send(work(1)) as Promise<unknown>;
  sent.catch(() => {});
  const begin = performance.now();
  for (let ms = 0; ms <= 7_000; ms += 250) link.look(begin + ms); // nothing is heard between two looks of one turn
  assert.equal(ended.length, 0);
  for (let ms = 7_250; ms <= 8_500; ms += 250) link.look(begin + ms);
  assert.match(ended[0]?.message ?? "", /said nothing for/);
  await assert.rejects(sent);
});

test("a frame that is not answered in its time ends alone, a load later than another, and its late answer is dropped", async (t) => {
  const waiting: (() => void)[] = [];
  const { port } = await hosted(t, { serve: (_frame, rows) => new Promise((resolve) => waiting.push(() => resolve(rows))) });
  const { link, ended } = opened(port);
  await until("the connection is ready", () => link.ready);
  const late = link.send(work(1)) as Promise<unknown>;
  const load = link.send(Object.assign(work(2), { onDemand: true })) as Promise<RowsAnswer>;
  const sentAt = performance.now();
  await until("the host has both", () => waiting.length === 2);
  const failed = assert.rejects(late, { code: "DeadlineExceeded", message: /in its time/ });
  link.look(sentAt + engineFrameMsMax); // after a pause of this process: the silence is one of 0.5 s
  await failed;
  link.look(sentAt + onDemandFrameMsMax - 1_000);
  for (const answer of waiting) answer();
  assert.equal(first(await load), 2);
  const next = link.send(work(3));
  await until("the host has the next", () => waiting.length === 3);
  waiting[2]?.();
  assert.equal(first(await next), 3);
  assert.deepEqual([link.ready, ended.length], [true, 0]);
});
