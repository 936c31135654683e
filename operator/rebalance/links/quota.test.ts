// Pods that send without end take no more of the operator than an honest deployment of their number and description does.
import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import { test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { moeDeploymentSpecSchema } from "../../../crds/moe-deployment.ts";
import { loadBytes, phases } from "../../../crds/telemetry.ts";
import { DescribeReplySchema, type WatchStatus, WatchStatusSchema } from "../../../runtime/net/gen/enodia/runtime/v1/runtime_pb.js";
import type { Network } from "../../../runtime/net/grpc.ts";
import { valuesPerBigInt } from "../../../runtime/net/message-bounds.ts";
import { ManualClock } from "../../../test/kit/manual-clock.ts";
import type { WorkerPod } from "../../deployment/ports.ts";
import { Semaphore } from "./links.ts";
import { needsOf, type OverQuota, Quota } from "./quota.ts";
import { Session } from "./session.ts";

const grid = { layers: 64, experts: 256 };
const cells = grid.layers * grid.experts;
const loadEveryMs = 5_000;
const answers = {
  describe: { bytes: 10 * cells, values: 2 * valuesPerBigInt * cells },
  status: { bytes: 100, values: 30 },
  hosted: { bytes: 2 * cells, values: cells + 13 * grid.layers },
  load: { bytes: phases.length * loadBytes(cells), values: 30 },
};
type Answer = keyof typeof answers;
const everyMs = 50;

function quotaOf(workers: number, now: () => number) {
  const over: Record<OverQuota, number> = { delayed: 0, dropped: 0 };
  const told: boolean[] = [];
  const onOver = (what: OverQuota, first: boolean): void => {
    over[what] += 1;
    if (first) told.push(first);
  };
  const quota = new Quota({ now, onOver });
  quota.follow({ workers, gateways: 0, grid, loadEveryMs });
  return { quota, over, told };
}

/** A stream that is read as gRPC does it: the next message is decoded while fewer than 16 wait. */
class PlayedStream extends EventEmitter {
  readonly #read: WatchStatus[] = [];
  #paused = false;
  cancel: () => void;

  constructor(clock: ManualClock, messages: number, decode: () => WatchStatus) {
    super();
    let left = messages;
    const next = (): void => {
      if (left-- <= 0) return void this.emit("end");
      try {
        if (this.#read.length < 16) this.#read.push(decode());
        this.#flow();
        this.cancel = clock.after(everyMs, next);
      } catch (error) {
        this.emit("error", error);
      }
    };
    this.cancel = clock.after(everyMs, next);
  }

  #flow(): void {
    while (!this.#paused && this.#read.length > 0) this.emit("data", this.#read.shift());
  }
  write(): void {}
  isPaused = (): boolean => this.#paused;
  pause(): void {
    this.#paused = true;
  }
  resume(): void {
    this.#paused = false;
    this.#flow();
  }
}

function pods(clock: ManualClock, count: number, quota: Quota, sends: { readonly status: Answer; readonly endsAfter?: number }) {
  let values = 0;
  const hosted = Array.from({ length: sends.status === "hosted" ? grid.layers : 0 }, (_, layer) => ({
    layer,
    epoch: 1n,
    experts: [layer],
  }));
  const status = create(WatchStatusSchema, { hosted, load: sends.status === "load" ? [new Uint8Array(1), new Uint8Array(1)] : [] });
  const description = { ...grid, storedBytes: [1n], residentBytes: [1n] };
  const connect: unknown = (_: unknown, { answer }: Parameters<Network["connect"]>[1]) => {
    const decode = <T>(kind: Answer, decoded: T): T => {
      answer?.admit?.(answers[kind].bytes, answers[kind].values);
      values += answers[kind].values + answers[kind].bytes / 4;
      return decoded;
    };
    const describe = async () => {
      return decode("describe", create(DescribeReplySchema, { self: { podUid: "w", bootId: "b" }, ...description }));
    };
    const watch = () => new PlayedStream(clock, sends.endsAfter ?? Number.POSITIVE_INFINITY, () => decode(sends.status, status));
    return { describe, watch, close: () => {}, receivedBytes: clock.now };
  };
  const target = { address: "10.0.0.1:9440", serverName: "rank-0", deploymentUid: "d", kind: "worker", podUid: "w" } as const;
  const handlers = { identity: { cert: "", key: "", ca: "" }, onChange: () => {}, onLoad: () => {}, quota };
  const network = { connect } as Pick<Network, "connect">;
  const open = () => new Session({ ...target, ...handlers }, { clock, network, connecting: new Semaphore(1) });
  const sessions = Array.from({ length: count }, open);
  return { sessions, values: () => values };
}

const liars = 16;
const seconds = 20;
/** Twice what a pod of this description needs at once, to describe itself and take part in a plan, and what tells its load and status. */
const atFirst = 2_800_000;
const perSecond = 110_000;

const floods: Record<string, { readonly status: Answer; readonly endsAfter?: number }> = {
  "report all their experts": { status: "hosted" },
  "send load": { status: "load" },
  "end their streams and describe themselves again": { status: "status", endsAfter: 1 },
};
for (const [sentence, sends] of Object.entries(floods)) {
  test(`16 pods that ${sentence} without end get what 16 honest ones need, and a neighbour waits for nothing`, async (t) => {
    const clock = new ManualClock();
    const { quota, over, told } = quotaOf(liars, clock.now);
    const beside = quotaOf(1, clock.now);
    const flood = pods(clock, liars, quota, sends);
    const [neighbour] = pods(clock, 1, beside.quota, { status: "status" }).sessions;
    await clock.advance(seconds * 1000);
    t.diagnostic(`${flood.values()} values, ${JSON.stringify(over)}`);
    assert.ok(flood.values() <= liars * (atFirst + perSecond * seconds), `${flood.values()} values`);
    assert.ok(flood.values() >= (liars * perSecond * seconds) / 4, "what they may send is read");
    assert.ok(over.delayed + over.dropped > 0);
    assert.deepEqual([told, quota.wasOver(seconds * 1000)], [[true], true], "it is told of once");
    assert.deepEqual([neighbour?.downSince, beside.over], [undefined, { delayed: 0, dropped: 0 }]);
    for (const session of [...flood.sessions, neighbour]) session?.close();
  });
}

test("one pod within its share is read although the others have used up the rest, and nobody is silent for it", async () => {
  const clock = new ManualClock();
  const { quota } = quotaOf(9, clock.now);
  const flood = pods(clock, 8, quota, { status: "hosted" });
  const [honest] = pods(clock, 1, quota, { status: "status" }).sessions;
  await clock.advance(20_000);
  assert.deepEqual([honest?.downSince, honest?.lastError], [undefined, ""]);
  for (const { lastError } of flood.sessions) assert.match(lastError, /^$|above the quota of \d+ values a second for each of 9 pods/);
  for (const session of [...flood.sessions, honest]) session?.close();
});

const largest = { layers: 1024, experts: 64 };
const needs = { workers: 0, gateways: 0, grid: undefined, loadEveryMs: 333 };
const message = 1_300_000;
/** A third of the thread, a burst and as much debt, and the last message. */
const most = 2 * 96_000_000 + seconds * 8_000_000 + message;
const hungry: Record<string, { readonly needs: Parameters<Quota["follow"]>[0]; readonly most: number; readonly renewed?: boolean }> = {
  "64 ranks of the largest model, whose load is asked for each second": { needs: { ...needs, workers: 64, grid: largest }, most },
  "200 ranks that are replaced again and again": { needs: { ...needs, workers: 200, grid: largest }, most, renewed: true },
  "64 ranks before any of them is known": { needs: { ...needs, workers: 64 }, most },
  "64 gateways, which describe no experts": { needs: { ...needs, gateways: 64 }, most: 64 * (16_000 * (2 * 4 + seconds) + message) },
};
for (const [sentence, { needs: pods, most: bound, renewed = false }] of Object.entries(hungry)) {
  test(`what ${sentence} make the operator decode is bounded for all of them together`, () => {
    let now = 0;
    const { quota } = quotaOf(1, () => now);
    quota.follow(pods);
    let [values, shares] = [0, [] as ReturnType<Quota["share"]>[]];
    const admitted = (share: ReturnType<Quota["share"]>, cost: number): boolean => {
      try {
        share.admit(0, cost - 2_000);
      } catch {
        return false;
      }
      values += cost;
      return share.mayRead();
    };
    const open = () => quota.share(pods.workers > 0 ? "worker" : "gateway");
    for (now = 0; now < seconds * 1000; now += 500) {
      if (renewed || now === 0) shares = Array.from({ length: pods.workers + pods.gateways }, open);
      for (const share of shares) for (const cost of [message, 100_000, 2_000]) while (share.mayRead() && admitted(share, cost));
    }
    assert.ok(values <= bound, `${values} values, at most ${bound}`);
    assert.ok(values >= bound / 4, `what they may send is read: ${values} values`);
  });
}

test("ranks of a larger model than the last one may describe it", () => {
  const { quota, over } = quotaOf(4, () => 0);
  quota.follow({ workers: 4, gateways: 0, grid: { layers: 1, experts: 1 }, loadEveryMs });
  for (let rank = 0; rank < 4; rank++) quota.share("worker").admit(answers.describe.bytes, answers.describe.values);
  assert.deepEqual(over, { delayed: 0, dropped: 0 });
});

test("a world of 256 ranks, 64 layers and 256 experts is never above its quota, nor is one of a rank and an expert", () => {
  for (const [ranks, shape] of [
    [256, grid],
    [1, { layers: 1, experts: 1 }],
  ] as const) {
    let now = 0;
    const { quota, over } = quotaOf(ranks, () => now);
    quota.follow({ workers: ranks, gateways: 0, grid: shape, loadEveryMs });
    const scale = (shape.layers * shape.experts) / cells;
    const shares = Array.from({ length: ranks }, () => quota.share("worker"));
    const say = (kind: Answer, times = 1, by = scale): void => {
      for (const share of shares)
        for (let i = 0; i < times; i++) {
          share.admit(answers[kind].bytes * by, answers[kind].values * by);
          assert.ok(share.mayRead());
        }
    };
    say("describe");
    for (now = 0; now < 120_000; now += 500) {
      say("status", 1, 1);
      if (now > 0 && now % loadEveryMs === 0) {
        if (now < 60_000) say("load");
        else for (let i = 0; i < phases.length * ranks; i++) assert.ok(quota.take(loadBytes(shape.layers * shape.experts)), "or on NATS");
      }
      // A plan of 10 s: two answers for each layer, and what each of them changes.
      if (now % 60_000 >= 30_000 && now % 60_000 < 40_000) say("status", (2 * shape.layers) / 20, 1);
      if (now % 60_000 < 3_000) say("hosted", 1, (4 * scale) / ranks);
    }
    assert.deepEqual(over, { delayed: 0, dropped: 0 });
  }
});

test("1,024 ranks that describe themselves at once wait for the deployment's pool, and none of them is cut", () => {
  let now = 0;
  const ranks = 1_024;
  const { quota, over } = quotaOf(ranks, () => now);
  quota.follow({ workers: ranks, gateways: 0, grid, loadEveryMs });
  const shares = Array.from({ length: ranks }, () => quota.share("worker"));
  const say = (kind: Answer): void => {
    for (const share of shares) share.admit(answers[kind].bytes, answers[kind].values);
  };
  say("describe");
  say("status");
  assert.ok(shares.every((share) => !share.mayRead()));
  for (; !shares.every((share) => share.mayRead()); now += 1_000) assert.ok(now < 60_000);
  say("status");
  assert.deepEqual(over, { delayed: 0, dropped: 0 });
});

test("ranks of an older template send load as often as its window asked, until they are replaced", () => {
  const spec = moeDeploymentSpecSchema.parse({ model: { uri: "pvc://claim/folder" }, rebalancing: { trigger: { window: "15s" } } });
  const least = (...every: (number | undefined)[]) => {
    const workers = every.map((ms) => ({ loadEveryMs: ms })) as unknown as readonly WorkerPod[];
    return needsOf({ workers, gateways: [], spec }, grid).loadEveryMs;
  };
  assert.deepEqual([least(), least(undefined), least(5_000, 333), least(20_000, 5_000)], [5_000, 5_000, 333, 5_000]);
});

test("two ranks that tell all their experts with each status while a plan of many releases is carried out wait for nothing", () => {
  let now = 0;
  const { quota, over } = quotaOf(2, () => now);
  const shares = [quota.share("worker"), quota.share("worker")];
  for (now = 0; now < 120_000; now += 400)
    for (const share of shares) {
      const say = (kind: Answer) => share.admit(answers[kind].bytes, answers[kind].values);
      if (now === 0) say("describe");
      // A status every 900 ms, one to each ping, and the answers to prepare, drain and release for each layer.
      say(now % 60_000 < 40_000 ? "hosted" : "status");
      if (now % 60_000 < 40_000 && now % 800 === 0) for (let i = 0; i < 4; i++) say("status");
      if (now > 0 && now % 5_200 === 0) say("load");
      assert.ok(share.mayRead(), `at ${now} ms`);
    }
  assert.deepEqual(over, { delayed: 0, dropped: 0 });
});
