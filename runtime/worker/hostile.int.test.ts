// A worker's refusals: strangers, forged senders, stale epochs, oversized and malformed frames, stale plans. After each, the honest
// work next to it is done as before.

import assert from "node:assert/strict";
import { once } from "node:events";
import { after, before, test } from "node:test";
import { connect as connectTls } from "node:tls";
import { doubleEngine } from "../../test/kit/ranks/double-engine.ts";
import { deployment, namespace, Ranks, tinyStore } from "../../test/kit/ranks/ranks.ts";
import { within } from "../../test/kit/wait.ts";
import { EngineLink, type EngineWork } from "../net/engine-link.ts";
import { encodeFrame, frameBytesMax, frameKinds } from "../net/frame-codec.ts";
import { Channel, Inference } from "../net/gen/enodia/runtime/v1/runtime_pb.js";
import { connect, fromStatus } from "../net/grpc.ts";
import { type Identity, toPlan, toSender } from "../net/mapping.ts";
import { encodeHello, peerAlpn } from "../net/peer-connection.ts";
import { connectReads } from "../net/read-link.ts";
import type { RowsAnswer, RowsFrame } from "../net/rows-codec.ts";
import { serverNames, type TlsSource } from "../net/tls.ts";

let store: Awaited<ReturnType<typeof tinyStore>>;
let ranks: Ranks;
let want: number[];

before(async () => {
  store = await tinyStore();
  ranks = new Ranks(store, () => ({ overrides: { createEngine: doubleEngine(store.index) } }));
  for (const rank of [0, 1]) await ranks.launch(rank);
  await ranks.firstPlan();
  // Rank 0 then serves epochs 2 and 3 of layer 0; epoch 1 is stale.
  for (const hosts of [[0, 1], [0]]) await ranks.carryOut(ranks.nextPlan([ranks.layerPlan(0, 0, () => hosts)]));
  want = await ranks.text([1], [1, 2, 3], 8);
});
after(async () => {
  await ranks.close();
  store.remove();
});

interface Fields extends Partial<Omit<RowsFrame, "seq">> {
  readonly body?: Uint8Array;
  /** Of the hello. */
  readonly sender?: Partial<Identity>;
  readonly width?: number;
}

/** An honest frame of rank 1 to rank 0, with changes. */
function work({ body, sender: _sender, width: _width, ...change }: Fields = {}): EngineWork {
  const rows = body ?? new Uint8Array(new Float32Array(store.index.hidden).fill(3).buffer);
  const one = { layer: 0, epoch: 3, decode: true, pairRows: Uint32Array.of(0), pairExperts: Uint32Array.of(1) };
  return { ...one, ...change, rows: () => rows, answerBytes: 4 * store.index.hidden, heldBytes: rows.byteLength };
}
const rank1Identity = (): Identity => ({ ...ranks.byRank.get(1)!.worker.identity });
let rank1: TlsSource | undefined;
function rank1Tls(): TlsSource {
  rank1 ??= ranks.ca.issue("rank-1", namespace, deployment, ranks.byRank.get(1)!.podName);
  return rank1;
}
async function send(tls: TlsSource, change: Fields = {}): Promise<RowsAnswer> {
  const target = { address: engineAddress(), serverName: serverNames.rank(0, namespace, deployment), tls };
  const self = { identity: { ...rank1Identity(), ...change.sender }, hidden: change.width ?? store.index.hidden, sums: false };
  const answered = new Promise<RowsAnswer>((resolve, reject) => {
    const link = new EngineLink(target, self, { ready: () => link.send(work(change))?.then(resolve, reject), closed: reject });
    void within(5_000, new Promise(() => {}), "an answer").catch((error) => {
      reject(error);
      link.close(error);
    });
  });
  return answered;
}
const engineAddress = () => `127.0.0.1:${ranks.byRank.get(0)!.worker.experts.connections.port}`;

/** Says these bytes where a frame is due; resolves when the host has ended the connection. */
async function say(...bytes: Uint8Array[]): Promise<void> {
  const [host, port] = engineAddress().split(":") as [string, string];
  const socket = connectTls({
    ...rank1Tls().current(),
    ...{ host, port: Number(port), servername: serverNames.rank(0, namespace, deployment), ALPNProtocols: [peerAlpn] },
  });
  socket.on("error", () => {}); // a reset is an end too
  socket.resume();
  const ended = once(socket, "close");
  const hello = { sender: toSender(rank1Identity()), channel: Channel.ENGINE, hidden: store.index.hidden };
  try {
    await once(socket, "secureConnect");
    for (const piece of [...encodeFrame({ kind: frameKinds.hello, head: encodeHello(hello), body: new Uint8Array(0) }), ...bytes])
      if (piece) socket.write(piece);
    await within(5_000, ended, "an end");
  } finally {
    socket.destroy();
  }
}
async function honestWorkGoesOn(): Promise<void> {
  assert.ok((await send(rank1Tls())) instanceof Uint8Array);
  assert.deepEqual(await ranks.text([1], [1, 2, 3], 8), want);
}

const strangers: Record<string, { change: Fields; want: RegExp }> = {
  "another deployment's uid": { change: { sender: { deploymentUid: "other" } }, want: /deployment_uid/ },
  "a rank that the certificate does not name": { change: { sender: { rank: 0 } }, want: /sender\.rank: 0, the certificate says 1/ },
  "a pod uid that is not the pod's": { change: { sender: { podUid: "x" } }, want: /pod_uid/ },
  "rows of another width": { change: { width: 32 }, want: /hidden: 32/ },
};
for (const [name, { change, want: message }] of Object.entries(strangers)) {
  test(`a connection with ${name} is refused by name`, async () => {
    await assert.rejects(send(rank1Tls(), change), { code: "Forbidden", message });
    await honestWorkGoesOn();
  });
}

const refused: Record<string, { change: Fields; want: RegExp }> = {
  "a layer that does not exist": { change: { layer: 9 }, want: /layer: 9 of 2/ },
  "half a row": { change: { body: new Uint8Array(100) }, want: /no whole rows/ },
  "a pair beyond the rows": { change: { pairRows: Uint32Array.of(7) }, want: /pair_rows/ },
  "an expert that does not exist": { change: { pairExperts: Uint32Array.of(99) }, want: /pair_experts/ },
};
for (const [name, { change, want: message }] of Object.entries(refused)) {
  test(`a frame with ${name} is rejected by name`, async () => {
    const answer = await send(rank1Tls(), change);
    assert.ok("type" in answer && answer.type === "rejected" && message.test(answer.reason), JSON.stringify(answer));
    await honestWorkGoesOn();
  });
}

test("a replaced pod of a member rank is not served", async () => {
  const tls = ranks.ca.issue("rank-1", namespace, deployment, `${deployment}-1-older`);
  await assert.rejects(send(tls, { sender: { podUid: "older" } }), { code: "Forbidden" });
  for (const pod of ["1-older", "1-a"]) {
    const older = ranks.ca.issue("rank-1", namespace, deployment, `${deployment}-${pod}`, "uid-1-older");
    await assert.rejects(send(older), { code: "Forbidden" }, "who claims to be the new one still has the old one's certificate");
  }
  await honestWorkGoesOn();
});

test("a frame older than the parent epoch is answered with the host's epoch", async () => {
  assert.deepEqual(await send(rank1Tls(), { epoch: 1 }), { type: "notHosted", epoch: 3, experts: [1] });
  await honestWorkGoesOn();
});

test("a gateway, the operator and a stranger may not send rows", async () => {
  for (const tls of [ranks.tls("gateway"), ranks.tls("operator"), ranks.ca.issue("rank-1", namespace, "another")])
    await assert.rejects(send(tls), (error: any) => ["Unavailable", "Forbidden"].includes(error.code));
  await honestWorkGoesOn();
});

test("an oversized frame ends its connection only", async () => {
  await assert.rejects(send(rank1Tls(), { body: new Uint8Array(frameBytesMax + 4) }), { code: "MessageTooLarge" });
  await honestWorkGoesOn();
  await say(prefix(frameBytesMax + 8, frameKinds.rows, 0)); // nothing follows: the length is enough
  await honestWorkGoesOn();
});

/** The eight bytes before a frame, as they are said of it. */
function prefix(bytesThatFollow: number, kind: number, headBytes: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeUInt32LE(bytesThatFollow, 0);
  bytes.writeUInt32LE(headBytes * 256 + kind, 4);
  return bytes;
}

const noFrames: Record<string, Uint8Array[]> = {
  "a text": [Buffer.from("GET / HTTP/1.1\r\n\r\n")],
  "a reply": [prefix(4, frameKinds.reply, 0)],
  "a head that is no message": [prefix(8, frameKinds.rows, 4), Buffer.from([255, 255, 255, 255])],
  "a head beyond its frame": [prefix(4, frameKinds.rows, 1_000)],
};
for (const [name, bytes] of Object.entries(noFrames)) {
  test(`${name} where a frame is due ends its stream only`, async () => {
    await say(...bytes);
    await honestWorkGoesOn();
  });
}

test("workers may neither ask for tokens nor steer, and another deployment's operator may not either", async () => {
  const inference = connect(Inference, {
    address: ranks.address(0),
    serverName: serverNames.rank(0, namespace, deployment),
    tls: rank1Tls(),
  });
  await assert.rejects(
    (async () => {
      for await (const _ of inference.generate({ prompt: [1], maxTokens: 1 })) assert.fail("a token");
    })(),
    (error) => fromStatus(error, "x").code === "Forbidden",
  );
  inference.close();
  for (const member of ["rank-1", "gateway"]) {
    const control = ranks.control(0, member);
    await assert.rejects(control.describe({ sender: ranks.sender() }), (error) => fromStatus(error, "x").code === "Forbidden");
    await assert.rejects(
      control.commit({ sender: ranks.sender(), plan: toPlan(ranks.plan!) }),
      (error) => fromStatus(error, "x").code === "Forbidden",
    );
  }
  const sender = toSender({ deploymentUid: "other", rank: -2, podUid: "operator", bootId: "operator" });
  await assert.rejects(ranks.control(0).drain({ sender }), (error) => fromStatus(error, "x").code === "Forbidden");
  await honestWorkGoesOn();
});

test("an old leader's plan and a plan for another model are refused, and nothing moves", async () => {
  const before = ranks.byRank.get(0)!.worker.engine.hosted();
  const stale = { ...ranks.nextPlan([ranks.layerPlan(0, 0, () => [1])], "old leader"), epoch: 2 };
  const reply = await ranks.control(0).commit({ sender: ranks.sender(), plan: toPlan(stale) });
  assert.match(reply.refused, /epoch 2 is below 3/);
  assert.equal(reply.epoch, 3n);
  await assert.rejects(ranks.prepare(0, stale), (error) => fromStatus(error, "x").code === "StalePlan");
  await assert.rejects(
    ranks.prepare(0, { ...ranks.nextPlan([]), modelDigest: "f".repeat(64) }),
    (error) => fromStatus(error, "x").code === "InvalidPlan",
  );
  assert.deepEqual(ranks.byRank.get(0)!.worker.engine.hosted(), before);
  await honestWorkGoesOn();
});

test("a shard of another model, or one that is not here, is not sent", async () => {
  const self = rank1Identity();
  const serverName = serverNames.rank(0, namespace, deployment);
  const link = connectReads({ address: ranks.address(0), serverName, tls: rank1Tls(), self });
  const fetchOne = async (change: object) => {
    let bytes = 0;
    const value = { modelDigest: store.index.modelDigest, layer: 0, expert: 0, codec: "f32", ...change };
    for await (const { data } of link.read({ case: "unit", value })) bytes += data.byteLength;
    return bytes;
  };
  try {
    assert.equal(await fetchOne({}), store.index.codecs.f32!.units[0]![0]!.bytes);
    const missing = [0, 1, 2, 3].find((expert) => !ranks.byRank.get(0)!.worker.engine.hosted()[1]!.includes(expert));
    await assert.rejects(fetchOne({ layer: 1, expert: missing }), { code: "NotHosted" });
    for (const change of [{ modelDigest: "f".repeat(64) }, { codec: "iq4_nl" }, { layer: 99 }]) {
      await assert.rejects(fetchOne(change), { code: "InvalidRequest" });
    }
  } finally {
    link.close();
  }
});
