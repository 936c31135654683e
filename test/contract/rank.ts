// The contract of a rank as operator and peers meet it on the wire: what it says of itself, which plans it takes, what it then holds, whom
// it refuses, what it publishes. A real worker and the ranks of the node simulator pass it; it asks for no text.

import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { AppError, operatorRank } from "../../crds/common.ts";
import type { PlacementPlan } from "../../crds/plan.ts";
import { decodeLoad } from "../../crds/telemetry.ts";
import { EngineLink } from "../../runtime/net/engine-link.ts";
import { Control, type PrepareEvent, WatchPushSchema, type WatchStatus } from "../../runtime/net/gen/enodia/runtime/v1/runtime_pb.js";
import { connect, fromStatus } from "../../runtime/net/grpc.ts";
import { callHeartbeat } from "../../runtime/net/heartbeat.ts";
import { openLoad } from "../../runtime/net/load-signature.ts";
import { type Identity, toMembership, toPlan, toSender } from "../../runtime/net/mapping.ts";
import type { Bus } from "../../runtime/net/nats.ts";
import { create } from "../../runtime/net/service.ts";
import { serverNames } from "../../runtime/net/tls.ts";
import { createTestCa } from "../kit/network/certs.ts";
import { telemetryKey } from "../kit/ranks/telemetry-keys.ts";
import { until } from "../kit/wait.ts";

export const place = { namespace: "default", deployment: "mix", deploymentUid: "8d7f3a50-0000-4000-8000-000000000001" } as const;
/** Whatever is waited for comes within this, on a busy machine too. */
const patienceMs = 20_000;
/** Two statuses would have come in this time, where silence is not allowed. */
const silentMs = 2_500;
/** Milliseconds between the load messages of a rank. */
export const loadEveryMs = 250;

/** A rank 0 that was started and has neither plan nor membership. */
interface ContractRank {
  readonly identity: Identity;
  readonly grpcPort: number;
  /** Width of a row. */
  readonly hidden: number;
  close(): Promise<void>;
}
interface RankSubject {
  readonly name: string;
  /** Starts rank 0 of `place`; load goes on the bus, signed with `telemetryKey(1)`. */
  open(given: { readonly tls: ReturnType<ReturnType<typeof createTestCa>["issue"]>; readonly bus: Bus }): Promise<ContractRank>;
}

const ca = createTestCa();
const { namespace, deployment: name, deploymentUid } = place;
const operator = toSender({ deploymentUid, rank: operatorRank, podUid: "operator", bootId: "operator" });
const tlsOf = new Map(["rank-0", "rank-1", "operator", "gateway"].map((member) => [member, ca.issue(member, namespace, name)] as const));

class Client {
  readonly rank: ContractRank;
  readonly published: { readonly subject: string; readonly message: Uint8Array }[];
  readonly bus: { away: boolean };
  readonly #closers: (() => void)[] = [];
  #version = 0;

  constructor(rank: ContractRank, published: Client["published"], bus: Client["bus"]) {
    this.bus = bus;
    this.rank = rank;
    this.published = published;
  }
  #target(member: string) {
    const tls = tlsOf.get(member) as NonNullable<ReturnType<typeof tlsOf.get>>;
    return {
      address: `127.0.0.1:${this.rank.grpcPort}`,
      serverName: serverNames.rank(0, namespace, name),
      tls,
      self: this.rank.identity,
      pingEveryMs: 1_000,
    };
  }
  control(member = "operator") {
    const client = connect(Control, this.#target(member));
    this.#closers.push(client.close);
    return client;
  }
  watch(member = "operator") {
    const control = this.control(member);
    const stream = control.watch();
    const statuses: WatchStatus[] = [];
    const seen = { statuses, failed: undefined as AppError | undefined };
    stream.on("data", (status: WatchStatus) => statuses.push(status));
    stream.on("error", (error: Error) => {
      seen.failed ??= fromStatus(error, "Watch");
    });
    this.#closers.push(() => stream.cancel());
    const push = (fields: object): void => void stream.write(create(WatchPushSchema, Object.assign({ sender: operator }, fields)));
    return { seen, push, receivedBytes: () => control.receivedBytes() };
  }
  /** Pushes a membership of this rank and rank 1, of which nobody listens. */
  join({ push }: ReturnType<Client["watch"]>): void {
    const member = { podName: "mix-0", address: `127.0.0.1:${this.rank.grpcPort}`, state: "active" as const };
    const other = { rank: 1, podUid: "uid-1", bootId: "boot-1", podName: "rank-1", address: "127.0.0.1:9", state: "joining" as const };
    const members = [Object.assign(member, this.rank.identity), other];
    push({ push: { case: "membership", value: toMembership({ version: ++this.#version, members }) } });
  }
  async prepare(plan: PlacementPlan): Promise<PrepareEvent["event"][]> {
    const events: PrepareEvent["event"][] = [];
    const request = { sender: operator, plan: toPlan(plan), deadlineUnixMs: BigInt(Date.now() + 20_000) };
    for await (const { event } of this.control().prepare(request)) events.push(event);
    return events;
  }
  async carryOut(plan: PlacementPlan): Promise<void> {
    for (const event of await this.prepare(plan)) assert.notEqual(event.case, "failed", JSON.stringify(event.value, plain));
    const { refused } = await this.control().commit({ sender: operator, plan: toPlan(plan) });
    assert.equal(refused, "");
  }
  /** A connection of rank 1 to the engine, whose port the rank's heartbeat names. */
  async rows(): Promise<EngineLink> {
    const target = this.#target("rank-1");
    let port = 0;
    const answered = (enginePort: number) => {
      port = enginePort;
    };
    const heartbeat = callHeartbeat(target, { answered, closed: () => {} });
    this.#closers.push(() => heartbeat.close());
    const named = () => {
      heartbeat.ping();
      return port > 0;
    };
    await until("the engine's port", named, patienceMs);
    const identity = { deploymentUid, rank: 1, podUid: "uid-1", bootId: "boot-1" };
    const self = { identity, hidden: this.rank.hidden, sums: false };
    const link = new EngineLink({ ...target, address: `127.0.0.1:${port}` }, self, { ready: () => {}, closed: () => {} });
    this.#closers.push(() => link.close(new AppError("the test is over", { code: "Cancelled" })));
    await until("a connection", () => link.ready, patienceMs);
    return link;
  }
  async close(): Promise<void> {
    for (const close of this.#closers) close();
    await this.rank.close();
  }
}

const plain = (_key: string, value: unknown) => (typeof value === "bigint" ? Number(value) : value);

/** All experts of all layers at the ranks that `hosts` gives them. */
function planOf({ layers, experts, modelDigest }: Shape, epoch: number, hosts: (expert: number) => number[]): PlacementPlan {
  const rows = Array.from({ length: experts }, (_, expert) => hosts(expert));
  const weights = rows.map((row) => row.map((_, i) => Math.floor(1000 / row.length) + (i === 0 ? 1000 % row.length : 0)));
  const placed = Array.from({ length: layers }, (_, layer) => ({ layer, epoch, hosts: rows, weights }));
  return { deploymentUid, epoch, parentEpoch: epoch - 1, planHash: `hash-${epoch}`, modelDigest, layers: placed };
}
interface Shape {
  readonly layers: number;
  readonly experts: number;
  readonly modelDigest: string;
}

export function rankContract(subject: RankSubject): void {
  const against = (title: string, run: (client: Client, shape: Shape) => Promise<void>): void => {
    test(`${subject.name}: ${title}`, async (t: TestContext) => {
      const published: Client["published"] = [];
      const bus = recorder(published);
      const client = new Client(await subject.open({ tls: tlsOf.get("rank-0") as never, bus }), published, bus);
      t.after(() => client.close());
      await run(client, await client.control().describe({ sender: operator }));
    });
  };

  against("it describes itself, and is not ready before its first plan", async (client) => {
    const reply = await client.control().describe({ sender: operator });
    assert.deepEqual(reply.self, toSender(client.rank.identity));
    const { layers, experts } = reply;
    assert.ok(layers >= 1 && experts >= 2);
    for (const bytes of [reply.storedBytes, reply.residentBytes]) {
      assert.ok([1, layers * experts].includes(bytes.length));
      assert.ok(bytes.every((value) => value > 0n));
    }
    assert.ok(reply.budgetBytes >= BigInt(layers * experts) * (reply.residentBytes[0] as bigint), "the contract's plans fit");
    assert.equal(reply.status?.ready, false);
    assert.match(reply.status?.notReadyReason ?? "", /no plan yet/);
    assert.deepEqual([reply.status?.epoch, reply.status?.hostedBytes, reply.status?.membershipVersion], [0n, 0n, 0n]);
    assert.deepEqual((await client.control().snapshot({ sender: operator })).plan, undefined);
  });

  against(
    "a watcher has a status at once and then each second, what is hosted only when it changed, and the clock for a ping",
    async (client) => {
      const watch = client.watch();
      await until("a status", () => watch.seen.statuses.length > 0, patienceMs);
      assert.equal(watch.seen.statuses[0]?.clock, undefined);
      watch.push({ push: { case: "ping", value: true }, sentUnixMs: 77n });
      const clocks = () => watch.seen.statuses.flatMap(({ clock }) => clock ?? []);
      await until("the clock", () => clocks().length > 0, patienceMs);
      assert.equal(clocks()[0]?.pingUnixMs, 77n);
      assert.ok(Math.abs(Number(clocks()[0]?.unixMs) - Date.now()) < 5_000);
      const had = watch.seen.statuses.length;
      await until("a status that nobody asked for", () => watch.seen.statuses.length > had, patienceMs);
      assert.ok(watch.seen.statuses[0]?.hosted.length !== 0);
      assert.ok(watch.seen.statuses.slice(1).every(({ hosted }) => hosted.length === 0));
    },
  );

  against("one that may be silent is, until there is news, and its connection shows that it lives", async (client) => {
    const watch = client.watch();
    const said = () => watch.seen.statuses.length;
    await until("a status", () => said() > 0, patienceMs);
    watch.push({ push: { case: "ping", value: true }, sentUnixMs: 1n, suppressMs: 60_000 });
    let [count, since] = [0, Date.now()];
    const silent = (): boolean => {
      if (said() !== count) [count, since] = [said(), Date.now()];
      return Date.now() - since > silentMs;
    };
    await until("silence", silent, patienceMs);
    const bytes = watch.receivedBytes();
    await until("a sign of life", () => watch.receivedBytes() > bytes, patienceMs);
    assert.equal(said(), count);
    client.join(watch);
    await until("news", () => said() > count, patienceMs);
  });

  against("it prepares, commits and serves a plan, says what it holds, and gives the plan to others", async (client, shape) => {
    const watch = client.watch();
    client.join(watch);
    const plan = planOf(shape, 1, () => [0]);
    const events = await client.prepare(plan);
    const layers = events.flatMap((event) => (event.case === "ready" ? [event.value.layer] : []));
    assert.deepEqual(
      layers.sort((a, b) => a - b),
      plan.layers.map(({ layer }) => layer),
    );
    const before = await client.control().describe({ sender: operator });
    assert.equal(before.status?.epoch, 0n, "prepared is not committed");
    assert.ok((before.status?.hostedBytes ?? 0n) > 0n);
    const { committed, epoch } = await client.control().commit({ sender: operator, plan: toPlan(plan) });
    assert.deepEqual([committed.length, epoch], [shape.layers, 1n]);
    const last = () => watch.seen.statuses.at(-1);
    await until("readiness", () => last()?.ready === true && last()?.epoch === 1n, patienceMs);
    assert.deepEqual([last()?.planHash, last()?.membershipVersion], ["hash-1", 1n]);
    const hosted = watch.seen.statuses.findLast((status) => status.hosted.length > 0)?.hosted ?? [];
    const all = Array.from({ length: shape.experts }, (_, expert) => expert);
    assert.deepEqual(
      hosted.map(({ layer, experts }) => [layer, experts]),
      plan.layers.map(({ layer }) => [layer, all]),
    );
    assert.deepEqual((await client.control("rank-1").snapshot({ sender: operator })).plan, toPlan(plan));
  });

  against("what a plan moves away goes with its release, and an aborted plan leaves nothing", async (client, shape) => {
    const hostedBytes = async () => (await client.control().describe({ sender: operator })).status?.hostedBytes ?? 0n;
    client.join(client.watch());
    const half = planOf(shape, 1, (expert) => [expert % 2]);
    await client.carryOut(half);
    const held = await hostedBytes();
    const whole = planOf(shape, 2, () => [0]);
    await client.prepare(whole);
    assert.ok((await hostedBytes()) > held);
    await client.control().abort({ sender: operator, epoch: 2n, layers: [] });
    assert.equal(await hostedBytes(), held);
    await client.carryOut(planOf(shape, 3, (expert) => (expert === 0 ? [0] : [1])));
    const layers = half.layers.map(({ layer }) => layer);
    const release = (drainOnly: boolean) => client.control().release({ sender: operator, epoch: 3n, layers, drainOnly });
    assert.deepEqual((await release(true)).released, layers);
    assert.equal(await hostedBytes(), held, "asked what is drained, it frees nothing");
    await release(false);
    assert.ok((await hostedBytes()) < held);
  });

  against("an epoch that is behind it is refused, with the one that it knows", async (client, shape) => {
    client.join(client.watch());
    await client.carryOut(planOf(shape, 5, () => [0]));
    const reply = await client.control().commit({ sender: operator, plan: toPlan(planOf(shape, 4, () => [0])) });
    assert.match(reply.refused, /epoch/);
    assert.deepEqual([reply.committed, reply.epoch], [[], 5n]);
    await assert.rejects(client.prepare(planOf(shape, 4, () => [0])));
  });

  against("a pushed plan is adopted as a whole, and its experts are loaded", async (client, shape) => {
    const watch = client.watch();
    client.join(watch);
    watch.push({ push: { case: "plan", value: toPlan(planOf(shape, 7, () => [0])) } });
    const last = () => watch.seen.statuses.at(-1);
    await until("readiness", () => last()?.ready === true && last()?.epoch === 7n, patienceMs);
  });

  against("it drains and takes it back, as its status says", async (client) => {
    const watch = client.watch();
    const drains = (draining: boolean) =>
      until(`draining ${draining}`, () => watch.seen.statuses.at(-1)?.draining === draining, patienceMs);
    await client.control().drain({ sender: operator, cancel: false, finishMs: 0n });
    await drains(true);
    await client.control().drain({ sender: operator, cancel: true, finishMs: 0n });
    await drains(false);
  });

  against("only the operator steers it, and only that of its deployment", async (client) => {
    const watch = client.watch("gateway");
    await until("the refusal", () => watch.seen.failed !== undefined, patienceMs);
    assert.equal(watch.seen.failed?.code, "Forbidden");
    const codeOf = (call: Promise<unknown>) =>
      call.then(
        () => "none",
        (error) => fromStatus(error, "a call").code,
      );
    assert.equal(await codeOf(client.control("rank-1").describe({ sender: operator })), "Forbidden");
    const stranger = Object.assign({}, operator, { deploymentUid: "another" });
    assert.equal(await codeOf(client.control().describe({ sender: stranger })), "Forbidden");
  });

  against("peers are answered frames of what it holds, and told what it does not", async (client, shape) => {
    const watch = client.watch();
    client.join(watch);
    await client.carryOut(planOf(shape, 1, (expert) => [expert === 0 ? 0 : 1]));
    const link = await client.rows();
    const rowBytes = 4 * client.rank.hidden;
    const pair = (expert: number) => ({
      ...{ layer: 0, epoch: 1, decode: true, pairRows: Uint32Array.of(0), pairExperts: Uint32Array.of(expert) },
      ...{ rows: () => new Uint8Array(rowBytes), answerBytes: rowBytes, heldBytes: 2 * rowBytes },
    });
    const [held, missing] = await Promise.all([link.send(pair(0)), link.send(pair(1))]);
    assert.ok(held instanceof Uint8Array && held.byteLength === rowBytes);
    assert.deepEqual(missing, { type: "notHosted", epoch: 1, experts: [1] });
  });

  against("load of both phases is published, signed, in order and of the model's shape", async (client, { layers, experts }) => {
    await until("messages of two windows", () => client.published.length >= 4, patienceMs);
    const windows = client.published.map(({ subject: to, message }) => {
      assert.equal(to, `enodia.v1.${namespace}.${name}.load.0`);
      const opened = openLoad(message, [telemetryKey(1)]);
      assert.ok(opened.ok);
      return decodeLoad(opened.body);
    });
    assert.deepEqual(
      windows.slice(0, 2).map(({ phase }) => phase),
      ["prefill", "decode"],
    );
    assert.deepEqual(
      windows.map(({ seq }) => seq),
      windows.map((_, i) => i + 1),
    );
    for (const window of windows) {
      assert.deepEqual([window.rank, window.bootId, window.layers, window.experts], [0, client.rank.identity.bootId, layers, experts]);
      assert.equal(window.routed.length, layers * experts);
      assert.ok(window.windowEnd >= window.windowStart);
    }
  });

  against("load comes on Control when NATS does not take it, or its watcher wants it all the same", async (client) => {
    const watch = client.watch();
    const load = () => watch.seen.statuses.flatMap((status) => (status.load.length > 0 ? [status.load] : []));
    await until("messages of two windows", () => client.published.length >= 4, patienceMs);
    assert.deepEqual(load(), []);
    watch.push({ push: { case: "ping", value: true }, wantsLoad: true });
    await until("load", () => load().length > 0, patienceMs);
    const [window = []] = load();
    const ofBoth = window.map((message) => client.published.some((one) => Buffer.compare(one.message, message) === 0));
    assert.deepEqual(ofBoth, [true, true]);
    watch.push({ push: { case: "ping", value: true } });
    client.bus.away = true;
    const [before, known] = [client.published.length, load().length];
    await until("load of later windows", () => load().length > known + 2, patienceMs);
    assert.ok(client.published.length <= before + 2, "NATS took none of it");
  });
}

function recorder(published: { subject: string; message: Uint8Array }[]): Bus & Client["bus"] {
  return {
    away: false,
    status: { connected: true, reason: "Connected" },
    dropped: 0,
    publish(subject, payload) {
      return !this.away && published.push({ subject, message: Buffer.from(payload) }) > 0;
    },
    subscribe: () => () => {},
    onStatus: () => () => {},
    close: async () => {},
  };
}
