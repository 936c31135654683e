// The loop on a model of the reference backend: one whose device goes away, and one that closes while a host keeps it waiting.

import assert from "node:assert/strict";
import { connect } from "node:net";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { MessageChannel } from "node:worker_threads";
import { AppError } from "../../../crds/common.ts";
import { createTestCa, type TestCa } from "../../../test/kit/network/certs.ts";
import { engineHost } from "../../../test/kit/network/engine-host.ts";
import { goldenStore } from "../../../test/kit/ranks/loaded-engine.ts";
import { until, within } from "../../../test/kit/wait.ts";

import { serverNames } from "../../net/tls.ts";
import type { PeerOpening } from "../api.ts";
import { EngineLoop } from "./loop.ts";
import type { CallMessage, FromEngine, ToEngine } from "./messages.ts";
import { openModel } from "./open.ts";

const [namespace, name] = ["default", "mix"];

async function started(t: TestContext) {
  const { storeDir } = await goldenStore();
  const options = { storeDir, backend: "reference", codec: "f32", kvPoolBytes: 1 << 20, maxContext: 32, threads: 1 } as const;
  const model = await openModel(options);
  const { port1, port2 } = new MessageChannel();
  let fault: AppError | undefined;
  const loop = new EngineLoop(port2, { ...model, backend: { ...model.backend, fault: () => fault } }, options);
  const said: FromEngine[] = [];
  port1.on("message", (message) => said.push(message));
  t.after(() => port1.close());
  let id = 0;
  const call = async (message: Pick<CallMessage, "method" | "argument">): Promise<unknown> => {
    const own = ++id;
    port1.postMessage({ type: "call", id: own, ...message });
    const isAnswer = (each: FromEngine) => (each.type === "answer" || each.type === "failed") && each.id === own;
    await until(message.method, () => said.some(isAnswer), 5_000);
    const answer = said.find(isAnswer);
    return answer?.type === "answer" ? answer.result : assert.fail(JSON.stringify(answer));
  };
  return {
    ...{ running: loop.run(), model, said, call },
    tell: (message: ToEngine) => port1.postMessage(message),
    break: (error: AppError) => {
      fault = error;
    },
  };
}

const sampling = { temperature: 0, topP: 1, topK: 0, seed: 1n };
const plain = { replay: new Uint32Array(0), maxTokens: 2, eos: [], priority: 0, embed: false, promptLogprobs: false, cacheSalt: "" };

/** PeerConnections of rank 0; `host`: the port at which rank 1 takes some. */
function connections(ca: TestCa, host?: number): PeerOpening {
  const address = host === undefined ? undefined : `127.0.0.1:${host}`;
  const peer = { rank: 1, podUid: "u1", podName: "rank-1", serverName: serverNames.rank(1, namespace, name), usable: true, address };
  const self = { deploymentUid: "d", rank: 0, podUid: "u0", bootId: "b0" };
  return {
    namespace,
    name,
    host: "127.0.0.1",
    port: 0,
    view: { self, tls: ca.issue("rank-0", namespace, name).current(), peers: [peer], serves: [], epochs: [] },
  };
}

test("a backend that can compute nothing any more ends the loop and its connections, even when no request is there", async (t) => {
  const engine = await started(t);
  t.after(() => engine.model.close());
  const port = (await engine.call({ method: "openConnections", argument: connections(createTestCa()) })) as number;
  await engine.call({ method: "stats", argument: undefined });
  engine.break(new AppError("the GPU device was lost", { code: "DeviceLost" }));
  engine.tell({ type: "call", id: 1_000, method: "stats", argument: undefined }); // a worker asks every second
  await assert.rejects(engine.running, { code: "DeviceLost" });
  const caller = connect(port, "127.0.0.1");
  const outcome = await new Promise((done) => caller.once("connect", () => done("taken")).once("error", () => done("refused")));
  caller.destroy();
  assert.equal(outcome, "refused");
});

test("an engine closes while a host that takes its frames never answers one", async (t) => {
  const engine = await started(t);
  const { layers, experts, hidden } = engine.model.info;
  const ca = createTestCa();
  let asked = 0;
  const { port } = await engineHost(t, {
    ...{ ca, namespace, name, hidden },
    serve: () => {
      asked += 1;
      return new Promise(() => {});
    },
  });
  await engine.call({ method: "openConnections", argument: connections(ca, port) });
  await until("the connection is ready", () =>
    engine.said.some((message) => message.type === "connections" && message.counts.connections === 1),
  );
  const rows = <T>(row: T): T[] => Array.from({ length: experts }, () => row);
  const tables = Array.from({ length: layers }, (_, layer) => ({ layer, epoch: 1, hosts: rows([1]), weights: rows([1_000]) }));
  await engine.call({ method: "setRouting", argument: { rank: 0, layers: tables } });
  engine.tell({ type: "generate", id: "a", prompt: Uint32Array.of(1, 2), sampling, ...plain });
  await until("the host has a frame", () => asked > 0);
  engine.tell({ type: "call", id: 1_000, method: "close", argument: undefined });
  await within(5_000, engine.running, "the engine closes");
  await until("the request has failed", () => engine.said.some(({ type }) => type === "requestFailed"));
  const failed = engine.said.find((message) => message.type === "requestFailed");
  assert.equal(failed?.error.code, "EngineStopped");
});

test("a frame whose host lacks the experts is computed here, although no message and no socket wakes the engine", async (t) => {
  const engine = await started(t);
  const { layers, experts, hidden } = engine.model.info;
  const ca = createTestCa();
  const { port } = await engineHost(t, {
    ...{ ca, namespace, name, hidden },
    serve: async ({ pairExperts }) => {
      await sleep(50); // the engine waits for the answer by then
      return { type: "notHosted", epoch: 1, experts: [...new Set(pairExperts)] };
    },
  });
  for (let layer = 0; layer < layers; layer++)
    for (let expert = 0; expert < experts; expert++)
      await engine.call({
        method: "loadExpert",
        argument: { layer, expert, unit: await engine.model.store.readUnit(layer, expert, "f32") },
      });
  await engine.call({ method: "openConnections", argument: connections(ca, port) });
  await until("the connection is ready", () =>
    engine.said.some((message) => message.type === "connections" && message.counts.connections === 1),
  );
  const rows = <T>(row: T): T[] => Array.from({ length: experts }, () => row);
  const tables = Array.from({ length: layers }, (_, layer) => ({ layer, epoch: 1, hosts: rows([1, 0]), weights: rows([1_000, 0]) }));
  await engine.call({ method: "setRouting", argument: { rank: 0, layers: tables } });
  engine.tell({ type: "generate", id: "a", prompt: Uint32Array.of(1, 2), sampling, ...plain });
  const hasToken = (said: FromEngine) => said.type === "events" && said.notices.some(({ event }) => event.type === "token");
  await until("the request has a token", () => engine.said.some(hasToken), 5_000);
  engine.tell({ type: "call", id: 1_000, method: "close", argument: undefined });
  await within(5_000, engine.running, "the engine closes");
});
