// Ranks of the class `tolerance` answer each other in sums of halves, a third of the bytes; whoever asks an exact rank, or is one, gets
// rows of pairs in f32, with the bits of one rank alone. The loops and connections are the real ones, and so are the sockets.

import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { MessageChannel } from "node:worker_threads";
import { createTestCa } from "../../../test/kit/network/certs.ts";
import { Link } from "../../../test/kit/network/link.ts";
import { goldenStore } from "../../../test/kit/ranks/loaded-engine.ts";
import { until } from "../../../test/kit/wait.ts";

import type { Backend } from "../../compute/backend.ts";
import { serverNames } from "../../net/tls.ts";
import { notHosted } from "../../placement/frames/not-hosted.ts";
import type { EnginePeer, GenerateEvent, PeerCounts, PeerView, RemoteFrame } from "../api.ts";
import { sumPairs } from "../pass/combine.ts";
import type { PairBatch } from "../pass/expert-table.ts";
import { EngineLoop } from "../thread/loop.ts";
import type { Calls, FromEngine, Method, ThreadOptions } from "../thread/messages.ts";
import { openModel } from "../thread/open.ts";
import { PeerConnections } from "./peer-connections.ts";

type Class = Backend["numericClass"];
type Token = Extract<GenerateEvent, { type: "token" }>;

const [namespace, name] = ["default", "mix"];
const { storeDir } = await goldenStore();
const options: ThreadOptions = {
  ...{ storeDir, backend: "reference", codec: "f32", kvPoolBytes: 1 << 20, maxContext: 64, threads: 1 },
};
const ca = createTestCa();
const prompts = [1, 5, 12, 20].map((length, seed) =>
  Uint32Array.from({ length }, (_, i) => ((seed + 1) * 7919 + i * i * 31 + i * 17) % 320),
);

function viewOf(rank: number, peers: readonly EnginePeer[], layers: number): PeerView {
  const self = { deploymentUid: "d", rank, podUid: `u${rank}`, bootId: "b" };
  return {
    self,
    tls: ca.issue(`rank-${rank}`, namespace, name).current(),
    peers,
    serves: new Array<number>(layers).fill(1),
    epochs: new Array<number>(layers).fill(1),
  };
}
const peerOf = (rank: number, address?: string): EnginePeer => {
  return { rank, podUid: `u${rank}`, podName: `rank-${rank}`, serverName: serverNames.rank(rank, namespace, name), usable: true, address };
};

/** An engine of a class that is only said: the reference computes in any. */
async function engineOf(t: TestContext, numericClass: Class) {
  const model = await openModel(options);
  const { port1, port2 } = new MessageChannel();
  const loop = new EngineLoop(port2, Object.assign({}, model, { backend: Object.assign({}, model.backend, { numericClass }) }), options);
  const said: FromEngine[] = [];
  port1.on("message", (message) => said.push(message));
  let id = 0;
  const call = async <M extends Method>(method: M, argument: Calls[M]["argument"]): Promise<Calls[M]["result"]> => {
    const own = ++id;
    port1.postMessage({ type: "call", id: own, method, argument });
    const answer = () => said.find((each) => (each.type === "answer" || each.type === "failed") && each.id === own);
    await until(method, () => answer() !== undefined, 5_000);
    const got = answer();
    return got?.type === "answer" ? (got.result as Calls[M]["result"]) : assert.fail(JSON.stringify(got));
  };
  const running = loop.run();
  t.after(async () => {
    await call("close", undefined);
    await running;
    port1.close();
  });
  const text = async (request: string, prompt: Uint32Array): Promise<readonly Token[]> => {
    const sampling = { temperature: 0, topP: 1, topK: 0, seed: 1n, logprobs: true, topLogprobs: 8 };
    const plain = { replay: new Uint32Array(0), maxTokens: 24, eos: [], priority: 0, embed: false };
    port1.postMessage({ type: "generate", id: request, prompt, sampling, ...plain });
    const events = () => said.flatMap((each) => (each.type === "events" ? each.notices : [])).filter((each) => each.id === request);
    await until("the text has ended", () => events().some(({ event }) => event.type === "finish"), 20_000);
    return events().flatMap(({ event }) => (event.type === "token" ? [event] : []));
  };
  return { info: model.info, store: model.store, said, call, text };
}

/** What rank 0 says to all prompts at once, with experts in turn on ranks of these classes. */
async function said(t: TestContext, classes: readonly Class[]): Promise<readonly (readonly Token[])[]> {
  const engines = await Promise.all(classes.map((numericClass) => engineOf(t, numericClass)));
  const [{ layers, experts }, first] = [engines[0]!.info, engines[0]!];
  const hostOf = (layer: number, expert: number): number => (layer + expert) % classes.length;
  for (let layer = 0; layer < layers; layer++)
    for (let expert = 0; expert < experts; expert++)
      await engines[hostOf(layer, expert)]!.call("loadExpert", { layer, expert, unit: await first.store.readUnit(layer, expert, "f32") });
  const peers: EnginePeer[] = [];
  for (const [rank, engine] of engines.entries()) {
    if (rank === 0) continue;
    const view = viewOf(rank, [peerOf(0)], layers);
    peers.push(peerOf(rank, `127.0.0.1:${await engine.call("openConnections", { namespace, name, host: "127.0.0.1", port: 0, view })}`));
  }
  await first.call("openConnections", { namespace, name, host: "127.0.0.1", port: 0, view: viewOf(0, peers, layers) });
  const connections = () => first.said.some((each) => each.type === "connections" && each.counts.connections === peers.length);
  if (peers.length > 0) await until("the connections are ready", connections, 5_000);
  const hosts = (layer: number) => Array.from({ length: experts }, (_, expert) => [hostOf(layer, expert)]);
  const tables = Array.from({ length: layers }, (_, layer) => ({
    layer,
    epoch: 1,
    hosts: hosts(layer),
    weights: hosts(layer).map(() => [1_000]),
  }));
  await first.call("setRouting", { rank: 0, layers: tables });
  const texts = await Promise.all(prompts.map((prompt, i) => first.text(`${i}`, prompt)));
  assert.equal(first.said.filter(({ type }) => type === "runOnDemand").length, 0, "all frames went by connections");
  return texts;
}

test("exact ranks, and ranks of which one is exact, have the bits of one rank", async (t) => {
  const want = await said(t, ["exact"]);
  for (const classes of [
    ["exact", "exact"],
    ["tolerance", "exact"],
    ["exact", "tolerance"],
    ["exact", "tolerance", "tolerance"],
  ] as const)
    assert.deepEqual(await said(t, classes), want, classes.join());
});

/** How far log-probabilities may be from those of exact rows: a few times what was seen, 0.003. Rows as bf16 were off by 0.024. */
const logprobTolerance = 0.01;
/** Texts may part where the two likeliest tokens were as near. */
const marginMost = 1e-3;
const noTop: NonNullable<Token["top"]> = { ids: new Uint32Array(0), logprobs: new Float64Array(0) };

test("ranks of the class tolerance have other bits, near those of one rank, beside exact ones too", async (t) => {
  const want = await said(t, ["exact"]);
  for (const classes of [
    ["tolerance", "tolerance"],
    ["tolerance", "tolerance", "exact"],
    ["tolerance", "tolerance", "tolerance"],
  ] as const) {
    const got = await said(t, classes);
    assert.notDeepEqual(got, want, classes.join());
    for (const [i, tokens] of want.entries()) assertNear(got[i] as readonly Token[], tokens, `${classes.join()}: prompt ${i}`);
  }
});

function assertNear(got: readonly Token[], want: readonly Token[], what: string): void {
  assert.equal(got.length, want.length, what);
  for (const [at, { id, top = noTop }] of want.entries()) {
    const other = got[at] as Token;
    const [first, second] = top.logprobs as unknown as [number, number];
    assert.ok(other.id === id || first - second <= marginMost, `${what}: ${other.id} for ${id} at ${at}, margin ${first - second}`);
    if (other.id !== id) return; // from here on it is another text
    const offs = [...top.ids].map((token, k) => {
      const there = other.top?.ids.indexOf(token) ?? -1;
      return there < 0 ? 0 : Math.abs((other.top?.logprobs[there] as number) - (top.logprobs[k] as number));
    });
    const off = Math.max(...offs);
    assert.ok(off <= logprobTolerance, `${what}: off by ${off} at ${at}`);
  }
}

const wide = { layers: 1, experts: 24, hidden: 1_024 };

/** Two ends of a connection, the bytes between them, and an expert that multiplies rows by its number plus one. */
async function ends(t: TestContext, numericClass: Class) {
  const open = async (rank: number, peers: readonly EnginePeer[], counted: PeerCounts[] = []) => {
    const serve = async ({ rows, pairRows, pairExperts }: PairBatch): Promise<Float32Array> => {
      if (pairExperts.includes(missing)) throw notHosted([missing], "no expert");
      const rowOf = (pair: number) =>
        rows.subarray((pairRows[pair] as number) * wide.hidden, ((pairRows[pair] as number) + 1) * wide.hidden);
      const out = new Float32Array(pairRows.length * wide.hidden);
      for (const [pair, expert] of pairExperts.entries())
        out.set(
          rowOf(pair).map((value) => value * (expert + 1)),
          pair * wide.hidden,
        );
      return out;
    };
    const model = { info: wide, backend: { numericClass } };
    const connections = new PeerConnections({
      model,
      serve,
      onDemand: () => assert.fail("nobody asks"),
      onFrames: () => {},
      report: (counts) => counted.push(counts),
    });
    t.after(() => connections.close());
    const port = await connections.open({ namespace, name, host: "127.0.0.1", port: 0, view: viewOf(rank, peers, 1) });
    return { connections, port, counted };
  };
  const host = await open(1, [peerOf(0)]);
  const link = await Link.open(() => host.port);
  t.after(() => link.close());
  const { connections, counted } = await open(0, [peerOf(1, link.address)]);
  await until("the connection is ready", () => counted.some((counts) => counts.connections === 1));
  return { connections, link };
}

/** An expert that the host does not have. */
const missing = 23;

/** Rows that chose eight experts each, of which those below 8 are at the host. */
function topEight(rows: number): { frame: RemoteFrame; gates: Float32Array } {
  const pairs = Array.from({ length: rows }, (_, row) => {
    const chosen = Array.from({ length: 8 }, (_, k) => (row * 7 + k * 3) % wide.experts);
    return chosen.filter((expert) => expert < 8).map((expert) => ({ row, expert }));
  }).flat();
  const frame: RemoteFrame = {
    ...{ rank: 1, layer: 0, epoch: 1, phase: rows > 8 ? "prefill" : "decode" },
    rows: Float32Array.from({ length: rows * wide.hidden }, (_, i) => Math.sin(i)),
    pairRows: Uint32Array.from(pairs, ({ row }) => row),
    pairExperts: Uint32Array.from(pairs, ({ expert }) => expert),
  };
  return { frame, gates: Float32Array.from(pairs, (_, pair) => 1 / ((pair % 7) + 2)) };
}

test("with eight experts a token, a third of them at a rank, sums take a third of the bytes on its socket, and are the weighted sums", async (t) => {
  for (const rows of [1, 8, 64]) {
    const { frame, gates } = topEight(rows);
    const bytes = { exact: 0, tolerance: 0 };
    for (const numericClass of ["exact", "tolerance"] as const) {
      const { connections, link } = await ends(t, numericClass);
      const before = link.bytes;
      const answer = await connections.ask(frame, () => gates);
      bytes[numericClass] = link.bytes - before;
      if (answer === undefined || "type" in answer) return assert.fail("the host declined");
      assert.equal(answer instanceof Float32Array, numericClass === "exact");
      const got = answer instanceof Float32Array ? sumPairs(answer, { pairRows: frame.pairRows, gates }, rows, wide.hidden) : answer.sums;
      for (let i = 0; i < got.length; i++) {
        const row = Math.floor(i / wide.hidden);
        const weights = [...frame.pairRows.keys()].filter((pair) => frame.pairRows[pair] === row);
        const factor = weights.reduce((sum, pair) => sum + (gates[pair] as number) * ((frame.pairExperts[pair] as number) + 1), 0);
        const exact = (frame.rows[i] as number) * factor;
        assert.ok(Math.abs((got[i] as number) - exact) <= 2 ** -10 * Math.abs(exact) + 1e-5, `${got[i]} for ${exact}`);
      }
    }
    assert.ok(bytes.tolerance <= bytes.exact / 3, `${rows} rows: ${bytes.tolerance} of ${bytes.exact} bytes`);
  }
});

test("a host that lacks an expert says which, also where sums are asked for", async (t) => {
  const { connections } = await ends(t, "tolerance");
  const { frame, gates } = topEight(1);
  const declined = Object.assign({}, frame, { pairExperts: frame.pairExperts.with(0, missing) });
  assert.deepEqual(await connections.ask(declined, () => gates), { type: "notHosted", epoch: 1, experts: [missing] });
  assert.ok("sums" in ((await connections.ask(frame, () => gates)) ?? {}));
});
