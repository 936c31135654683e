// The turns on a rank: decode frames of others before everything, own decode steps before others' prefills, prefills in pieces by turns;
// and that the rows of a frame depend neither on the frames beside it nor on its pieces.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { Phase, StepKind } from "../../../crds/telemetry.ts";
import { engineWorld } from "../../../test/kit/ranks/loaded-engine.ts";
import type { ComputeQueue } from "../../compute/backend.ts";
import type { Share } from "../schedule/frame-queue.ts";
import { RanksInStep } from "../schedule/ranks-in-step.ts";
import type { ExpertWork, PairBatch } from "./expert-table.ts";
import { FrameInbox } from "./frame-inbox.ts";
import { FrameScheduler } from "./frame-scheduler.ts";
import { Mutex } from "./mutex.ts";

const pairMs = 0.1;

/** Experts that take a tenth of a millisecond a pair, on a clock of their own. */
class Stage {
  nowMs = 1_000;
  readonly frames: FrameInbox;
  waits = false;
  /** What was computed: phase, layer and pairs. */
  readonly log: string[] = [];
  /** Called while something is computed, as messages come in then. */
  readonly during: (() => void)[] = [];
  /** Messages that came in while the thread computed. */
  readonly inbox: (() => void)[] = [];
  fails = false;
  yields = 0;
  /** Prefills end when it does, where they have a queue. */
  queue: Promise<void> | undefined;
  readonly scheduler: FrameScheduler;

  constructor(hasQueue = false) {
    const experts = {
      lock: new Mutex(),
      prepare: (batch: PairBatch, _room?: unknown, origin: "local" | "remote" = "local"): ExpertWork => {
        const order = [...batch.pairExperts.keys()];
        return { batch, origin, layer: batch.layer, phase: batch.phase, programs: new Map(), order, out: new Float32Array(order.length) };
      },
      release: () => {},
      compute: async (shares: readonly Share<ExpertWork>[], queue?: ComputeQueue) => {
        if (queue === "prefill") await this.queue;
        if (this.fails) throw new Error("no device");
        const pairs = shares.map((share) => share.pairs.length);
        this.nowMs += pairs.reduce((a, b) => a + b, 0) * pairMs;
        this.log.push(`${shares[0]?.frame.phase} ${shares[0]?.frame.layer}: ${pairs.join("+")}`);
        this.during.shift()?.();
      },
    };
    this.frames = new FrameInbox(experts, () => this.nowMs, new RanksInStep([0, 1, 2, 3, 4, 5, 6, 7]));
    this.scheduler = new FrameScheduler({
      experts,
      inbox: this.frames,
      poll: () => undefined,
      takeMessages: () => {
        for (const message of this.inbox.splice(0)) message();
      },
      pendingAnswers: () => (this.waits ? 1 : 0),
      prefillLock: hasQueue ? new Mutex() : undefined,
      waitMs: 20,
      now: () => this.nowMs,
      yieldProcessor: () => {
        this.yields += 1;
      },
    });
  }

  set kind(kind: StepKind | undefined) {
    this.scheduler.running = kind;
  }

  ask(phase: Phase, layer: number, pairs: number, from = 1): Promise<Float32Array> {
    const pairRows = new Uint32Array(pairs);
    return this.frames.serve({
      origin: "remote",
      from,
      layer,
      phase,
      rows: new Float32Array(1),
      pairRows,
      pairExperts: new Uint32Array(pairs),
    });
  }
}

test("decode frames that wait together are computed together", async () => {
  const stage = new Stage();
  const asked = [stage.ask("decode", 3, 2), stage.ask("decode", 3, 4), stage.ask("decode", 4, 1)];
  await stage.scheduler.serveWaiting();
  await Promise.all(asked);
  assert.deepEqual(stage.log, ["decode 3: 2+4", "decode 4: 1"]);
});

test("a decode frame waits for one piece of a prefill frame at most, and pieces are small from then on", async () => {
  const stage = new Stage();
  const long = stage.ask("prefill", 0, 1_000);
  let answeredAt = 0;
  const came = () => {
    const cameAt = stage.nowMs;
    stage.inbox.push(
      () =>
        void stage.ask("decode", 1, 1).then(() => {
          answeredAt = stage.nowMs - cameAt;
        }),
    );
  };
  stage.during.push(() => {}, came);
  await stage.scheduler.serveWaiting();
  await long;
  assert.deepEqual(stage.log.slice(0, 4), ["prefill 0: 16", "prefill 0: 192", "decode 1: 1", "prefill 0: 16"]);
  assert.ok(answeredAt < 20 + 1, `${answeredAt} ms`);
});

test("an own decode step goes before others' prefills, which have a third of the time", async () => {
  const stage = new Stage();
  stage.kind = "decode";
  void stage.ask("prefill", 0, 200);
  await stage.scheduler.serveWaiting();
  assert.deepEqual(stage.log, [], "the step is to go on");
  await stage.scheduler.betweenGraphs();
  assert.deepEqual(stage.log, ["prefill 0: 16"]);
  stage.nowMs += 3;
  await stage.scheduler.betweenGraphs();
  assert.equal(stage.log.length, 1, "the step has twice the time of a portion first");
  stage.nowMs += 1;
  await stage.scheduler.betweenGraphs();
  assert.equal(stage.log.length, 2);
  stage.waits = true;
  stage.scheduler.begin(1);
  await stage.scheduler.waitFor(new Promise((answered) => setImmediate(answered)));
  assert.equal(stage.log.length, 13, "all of it while the step waits for others anyway");
});

test("an own prefill and those of others take turns, piece by piece", async () => {
  const stage = new Stage();
  stage.kind = "prefill";
  const other = stage.ask("prefill", 7, 400);
  const own: PairBatch = {
    ...{ layer: 2, phase: "prefill", rows: new Float32Array(1) },
    ...{ pairRows: new Uint32Array(400), pairExperts: new Uint32Array(400) },
  };
  await stage.scheduler.ownExperts([own]);
  const layers = stage.log.map((line) => line.split(/[ :]/)[1]);
  assert.deepEqual(
    layers,
    layers.map((_, i) => (i % 2 === 0 ? "2" : "7")),
  );
  stage.kind = undefined;
  await stage.scheduler.serveWaiting();
  await other;
});

test("own rows that decode are computed with those of prompts, expert by expert, in pieces between which others have their turn", async () => {
  const stage = new Stage();
  stage.kind = "mixed";
  const batch = (phase: Phase, experts: readonly number[]): PairBatch => ({
    ...{ layer: 2, phase, rows: new Float32Array(1) },
    ...{ pairRows: new Uint32Array(experts.length), pairExperts: Uint32Array.from(experts) },
  });
  const other = stage.ask("decode", 7, 3);
  const both = [batch("decode", [0, 1]), batch("prefill", [...new Array<number>(10).fill(0), ...new Array<number>(12).fill(1)])];
  const rows = await stage.scheduler.ownExperts(both);
  assert.deepEqual(
    rows.map(({ length }) => length),
    [2, 22],
  );
  assert.deepEqual(stage.log, ["decode 2: 2+14", "decode 7: 3", "prefill 2: 8"]);
  await other;
});

test("between the pieces of a prefill the processor is left to others while they decode, and only then", async () => {
  const stage = new Stage();
  stage.kind = "prefill";
  await stage.scheduler.betweenGraphs();
  assert.equal(stage.yields, 0);
  const asked = stage.ask("decode", 0, 1);
  await stage.scheduler.betweenGraphs();
  await asked;
  assert.equal(stage.yields, 1);
  stage.nowMs += 1_000;
  await stage.scheduler.betweenGraphs();
  assert.equal(stage.yields, 1);
});

test("where prompts have a queue, frames that decode are answered while it computes, and nobody naps", async () => {
  const stage = new Stage(true);
  const { promise, resolve } = Promise.withResolvers<void>();
  stage.queue = promise;
  await Promise.all([stage.ask("decode", 0, 1), stage.scheduler.serveWaiting()]);
  const long = stage.ask("prefill", 0, 200);
  await stage.scheduler.serveWaiting();
  stage.kind = "prefill";
  const own = stage.scheduler.ownExperts([{ ...ownDecode(2), phase: "prefill" }]);
  const asked = stage.ask("decode", 1, 2);
  await stage.scheduler.serveWaiting();
  await asked;
  assert.deepEqual(stage.log.splice(0), ["decode 0: 1", "decode 1: 2"]);
  resolve();
  await Promise.all([own, long]);
  assert.deepEqual(stage.log, ["prefill 0: 16", "prefill 2: 3", "prefill 0: 128", "prefill 0: 56"], "by turns, in pieces of up to 20 ms");
  assert.equal(stage.yields, 0);
});

test("frames fail with the device, alone, and the next are served", async () => {
  const stage = new Stage();
  stage.fails = true;
  const failed = assert.rejects(stage.ask("prefill", 0, 100), /no device/);
  await stage.scheduler.serveWaiting();
  await failed;
  stage.fails = false;
  const next = stage.ask("decode", 0, 1);
  await stage.scheduler.serveWaiting();
  assert.equal((await next).length, 1);
});

test("the rows of a frame are those that it has alone, whatever waits beside it", async () => {
  const { start } = await engineWorld({ kvPoolBytes: 1 << 20, maxContext: 64, threads: 1 });
  const engine = await start();
  const { layers, experts, hidden } = engine.describe();
  const frames = fc
    .record({
      layer: fc.nat({ max: layers - 1 }),
      phase: fc.constantFrom<Phase>("decode", "prefill"),
      pairs: fc.array(fc.tuple(fc.nat({ max: 6 }), fc.nat({ max: experts - 1 })), { minLength: 1, maxLength: 60 }),
      seed: fc.integer({ min: 1, max: 1_000 }),
    })
    .map(({ layer, phase, pairs, seed }) => ({
      ...{ layer, phase, rows: Float32Array.from({ length: 7 * hidden }, (_, i) => Math.sin(i * seed)) },
      ...{ pairRows: Uint32Array.from(pairs, ([row]) => row), pairExperts: Uint32Array.from(pairs, ([, expert]) => expert) },
    }));
  await fc.assert(
    fc.asyncProperty(fc.array(frames, { minLength: 2, maxLength: 6 }), async (all) => {
      const together = await Promise.all(all.map((frame) => engine.runExperts(frame)));
      for (const [i, frame] of all.entries()) assert.deepEqual(await engine.runExperts(frame), together[i]);
    }),
    { numRuns: 15 },
  );
});

const ownDecode = (layer: number): PairBatch => ({
  ...{ layer, phase: "decode", rows: new Float32Array(1), pairRows: new Uint32Array(3), pairExperts: new Uint32Array(3) },
});

/** Two other ranks have sent frames of the layers up to this one, in step. */
async function inStep(layer: number): Promise<Stage> {
  const stage = new Stage();
  for (let i = 0; i <= 40 + layer; i++) {
    stage.nowMs += 1;
    for (const rank of [1, 2]) void stage.ask("decode", i % 8, 2, rank);
    await stage.scheduler.serveWaiting();
  }
  stage.log.length = 0;
  stage.kind = "decode";
  stage.scheduler.begin(1);
  return stage;
}

test("rows of a layer are computed with those of ranks in step, which are waited for shortly", async () => {
  const stage = await inStep(2);
  void stage.ask("decode", 3, 2, 1);
  const own = stage.scheduler.ownExperts([ownDecode(3)]);
  await stage.scheduler.betweenGraphs();
  assert.deepEqual(stage.log, [], "rank 2 is due");
  const other = stage.ask("decode", 3, 1, 2);
  await stage.scheduler.serveWaiting();
  assert.deepEqual([(await own)[0]?.length, (await other).length], [3, 1]);
  assert.deepEqual(stage.log, ["decode 3: 2+3+1"]);
  const late = stage.scheduler.ownExperts([ownDecode(4)]);
  setImmediate(() => {
    stage.nowMs += 2;
  });
  await late;
  assert.deepEqual(stage.log.slice(1), ["decode 4: 3"], "nobody else came");
});

test("pairs of a prompt's other half wait for no rank while a step that decodes runs between its graphs", async () => {
  const stage = await inStep(0);
  const own = { ...ownDecode(3), phase: "prefill" as const };
  await stage.scheduler.ownExperts([own]);
  assert.deepEqual(stage.log, ["prefill 3: 3"]);
});

test("a frame of the layer that the own step has next waits for it, others do not", async () => {
  const stage = await inStep(0);
  stage.nowMs += 50; // the ranks are late
  stage.scheduler.reached(2);
  const next = stage.ask("decode", 3, 2);
  const behind = stage.ask("decode", 1, 1);
  await stage.scheduler.betweenGraphs();
  await behind;
  assert.deepEqual(stage.log, ["decode 1: 1"]);
  stage.scheduler.reached(3);
  await Promise.all([next, stage.scheduler.ownExperts([ownDecode(3)])]);
  assert.deepEqual(stage.log.slice(1), ["decode 3: 2+3"]);
});

test("frames that keep coming hold up neither the own step nor loads and timers", async () => {
  const stage = new Stage();
  stage.kind = "decode";
  let asked = 0;
  const more = (): void => {
    asked += 1;
    stage.inbox.push(() => void stage.ask("decode", asked, 5));
    if (asked < 100_000) stage.during.push(more);
  };
  more();
  const from = stage.nowMs;
  await stage.scheduler.betweenGraphs();
  assert.ok(stage.nowMs - from < 30, `the own step waited for ${stage.nowMs - from} ms`);
  stage.kind = undefined;
  let timer = false;
  setImmediate(() => {
    timer = true;
    stage.during.length = 0; // and no more come
  });
  await stage.scheduler.serveWaiting();
  assert.ok(timer);
  assert.ok(asked < 10_000, `${asked} frames came before anything else had its turn`);
});
