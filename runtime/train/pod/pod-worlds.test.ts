// Training pods that meet in worlds over TLS, as processes of this one: one that is lost, another number of ranks and pods that are told to
// end leave the bits of a run alone, and whoever waits says so. With shadows a lost one costs the step in flight.

import assert from "node:assert/strict";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { AppError } from "../../../crds/common.ts";
import { parseTrainingEnd } from "../../../crds/training-report.ts";
import type { PodReport, TrainingWorld } from "../../../crds/training-world.ts";
import { tinyModel, writeCorpus } from "../../../test/kit/training/training.ts";
import { modelIn, podSettings, podSpec, tell, worldOfPods } from "../../../test/kit/training/training-pods.ts";
import { until } from "../../../test/kit/wait.ts";
import { train } from "../loop/run.ts";
import type { TrainPorts } from "../loop/train-ports.ts";
import type { TrainSettings } from "../loop/train-settings.ts";
import type { RankContext } from "../ranks/rank-context.ts";
import { startTrainer, type Trainer } from "./trainer.ts";

const folder = mkdtempSync(join(tmpdir(), "enodia-worlds-"));
after(() => rmSync(folder, { recursive: true, force: true }));
const steps = 60;
let ranksPort = 0;

before(async () => {
  cpSync(tinyModel.dir, join(folder, "tiny"), { recursive: true });
  mkdirSync(join(folder, "tokens"));
  await writeCorpus(
    join(folder, "tokens"),
    Array.from({ length: 400 }, (_, i) => (i * 37 + ((i * i) % 11)) % tinyModel.vocab),
  );
  // A port that nobody has on any address: pods of a job have the same.
  const probe = createServer().listen(0);
  await new Promise((resolve) => probe.once("listening", resolve));
  ranksPort = (probe.address() as { port: number }).port;
  await new Promise((resolve) => probe.close(resolve));
});

const specOf = (change: object = {}) => podSpec({ steps, checkpoint: { everySteps: 2, keep: 2 }, fssdp: { memorySlots: 1 }, ...change });

type Run = typeof train;

const pods: Pod[] = [];
after(() => Promise.allSettled(pods.map(({ trainer }) => trainer.close())));

class Pod {
  readonly uid: string;
  readonly rank: number;
  readonly endFile: string;
  /** Its newest step, and what each of its worlds went on from. */
  step = 0;
  readonly from: number[] = [];
  /** Steps that it had made already where a world of it began. */
  readonly again: number[] = [];
  trainer!: Trainer;

  constructor(uid: string, rank: number) {
    this.uid = uid;
    this.rank = rank;
    this.endFile = join(folder, `${uid}.end`);
  }

  async start(out: string, run: Run = train, spec = specOf(), leaveMs?: number): Promise<this> {
    const settings = podSettings({ podUid: this.uid, rank: this.rank, spec, ranksPort, endFile: this.endFile });
    const own = (given: TrainSettings, ports: TrainPorts, context?: RankContext) => {
      const paths = { model: join(folder, "tiny"), data: join(folder, "tokens"), out: join(folder, out) };
      const onStep: TrainPorts["onStep"] = (report) => {
        ports.onStep(report);
        this.step = report.step;
      };
      const onStart: TrainPorts["onStart"] = (start) => {
        ports.onStart(start);
        this.from.push(start.step);
        if (this.step > 0) this.again.push(this.step - start.step);
      };
      return run({ ...given, ...paths }, { ...ports, onStart, onStep }, context);
    };
    this.trainer = await startTrainer(settings, { run: own, host: `127.0.0.${this.rank + 1}`, ...(leaveMs !== undefined && { leaveMs }) });
    this.trainer.ended.catch(() => {});
    pods.push(this);
    return this;
  }

  get end() {
    return parseTrainingEnd(readFileSync(this.endFile, "utf8"));
  }

  async says(world?: TrainingWorld, stop = false): Promise<PodReport> {
    const order = { job: "job", pod: this.uid, ...(world && { world }), ...(stop && { stop: true as const }) };
    for (;;) {
      const words = await tell(this.trainer, world, { rank: this.rank, uid: this.uid, order });
      if (words !== undefined) return words;
    }
  }
}

/** All of a world are told of it, those that leave it too. */
async function meet(epoch: number, pods: readonly Pod[], leaving: readonly Pod[] = []): Promise<void> {
  const world = worldOfPods(epoch, pods.map(asMember), leaving.map(asMember));
  await Promise.all([...pods, ...leaving].map((pod) => pod.says(world)));
}
const asMember = ({ uid, rank }: Pod) => ({ uid, rank });

const digest = (out: string): string => modelIn(join(folder, out));

/** A run that is lost once `pod` has made a step: it leaves without a word, as a process that is killed does. */
function lostAfter(pod: Pod, step: number): Run {
  return (settings, ports, context) => {
    const stopped = (): boolean => {
      if (pod.step >= step) throw new AppError("killed", { code: "Killed" });
      return ports.stopped();
    };
    return train(settings, { ...ports, stopped }, context);
  };
}

const waits = (pods: readonly Pod[], epoch: number): Promise<unknown> =>
  Promise.all(
    pods.map((pod) =>
      until("a survivor to wait", async () => {
        const { training, left } = await pod.says();
        return training === 0 && left?.epoch === epoch;
      }),
    ),
  );

test("ranks that lose one, go on as two, become more and fewer and hand on what they have end with the bits of one alone", {
  timeout: 300_000,
}, async () => {
  const alone = await new Pod("alone", 0).start("quiet");
  await meet(1, [alone]);
  await alone.trainer.ended;
  assert.equal(alone.end?.outcome, "Complete");

  const spec = specOf(unwritten);
  const [zero, one, two] = [new Pod("zero", 0), new Pod("one", 1), new Pod("two", 2)];
  await Promise.all([zero.start("ranks", train, spec), one.start("ranks", lostAfter(one, 3), spec), two.start("ranks", train, spec)]);
  await meet(1, [zero, one, two]);
  await assert.rejects(one.trainer.ended, { code: "Killed" });
  await waits([zero, two], 1);
  // Two places in the world, with the certificates of ranks 0 and 2.
  await meet(2, [zero, two]);
  await until("a step on two ranks", () => zero.step >= 4);
  const next = await new Pod("next", 1).start("ranks", train, spec);
  await meet(3, [zero, next, two]);
  await until("a step on three", () => next.step > 0);
  await meet(4, [zero, next], [two]);
  await two.trainer.ended;
  assert.equal(two.end?.outcome, "Stopped");
  const then = zero.step;
  await until("a step on two ranks again", () => zero.step > then);

  // The first one is told to end: it trains on until a world takes what it has.
  const closing = zero.trainer.close();
  assert.equal((await zero.says()).leaving, true);
  const made = zero.step;
  await until("a step of one that is to end", () => zero.step > made);
  await meet(5, [next], [zero]);
  await closing;
  assert.equal(zero.end?.outcome, "Stopped");
  await next.trainer.ended;
  assert.deepEqual([next.end?.outcome, next.end?.report?.step], ["Complete", steps]);
  assert.equal(digest("ranks"), digest("quiet"));
  assert.deepEqual(
    [zero, two, next].flatMap(({ again }) => again.filter((count) => count > 0)),
    [],
    "no step is made twice, while no checkpoint is written",
  );
});

test("a pod that is to end and is told of no world leaves a checkpoint: in its time, and at once where there is to be none", {
  timeout: 300_000,
}, async () => {
  const spec = specOf(unwritten);
  let epoch = 0;
  const first = await new Pod("stays", 0).start("stopped", train, spec);
  for (const { name, leaveMs, stop } of [
    { name: "patient", leaveMs: 300, stop: false },
    { name: "reported", leaveMs: 600_000, stop: true },
  ]) {
    const leaver = await new Pod(name, 1).start("stopped", train, spec, leaveMs);
    epoch += 1;
    await meet(epoch, [first, leaver]);
    await until("steps", () => leaver.step >= (first.from.at(-1) ?? 0) + 2 && leaver.step > 0);
    const closing = leaver.trainer.close();
    if (stop) await leaver.says(undefined, true);
    await closing;
    await waits([first], epoch);
    assert.equal(leaver.end?.outcome, "Stopped");
    const newest = readdirSync(join(folder, "stopped/checkpoints")).toSorted().at(-1);
    assert.equal(newest, `step-${String(leaver.end?.report?.step).padStart(8, "0")}`);
  }
  await meet(epoch + 1, [first]);
  await first.trainer.ended;
  assert.equal(digest("stopped"), digest("quiet"));
  assert.deepEqual(first.again, [0, 0]);
});

test("a begin is given up for a newer world, whoever the older one waits for", { timeout: 120_000 }, async () => {
  const [here, ghost] = [await new Pod("here", 0).start("begun", train, specOf(unwritten)), new Pod("ghost", 1)];
  await here.says(worldOfPods(1, [here, ghost].map(asMember)));
  await until("the begin", async () => (await here.says()).training === 1);
  await meet(2, [here]);
  await until("a step", () => here.step > 0);
  await here.trainer.ended;
  assert.equal(digest("begun"), digest("quiet"));
});

/** Nothing but the last step is ever written: what a world goes on from is what its ranks have, or the begin of the run. */
const unwritten = { checkpoint: { everySteps: steps, keep: 2 } };

/** Three ranks lose one after 3 steps and get another in its place, then the first one after 5. Returns what later worlds went on from. */
async function withLosses(out: string, change: object): Promise<number[]> {
  const spec = specOf({ ...unwritten, ...change });
  const pod = (name: string, rank: number): Pod => new Pod(`${out}-${name}`, rank);
  const [zero, one, two, next, last] = [pod("zero", 0), pod("one", 1), pod("two", 2), pod("next", 1), pod("last", 0)];
  await zero.start(out, lostAfter(zero, 5), spec);
  await one.start(out, lostAfter(one, 3), spec);
  await two.start(out, train, spec);
  await meet(1, [zero, one, two]);
  await assert.rejects(one.trainer.ended, { code: "Killed" });
  await waits([zero, two], 1);
  await next.start(out, train, spec);
  await meet(2, [zero, next, two]);
  await assert.rejects(zero.trainer.ended, { code: "Killed" });
  await waits([next, two], 2);
  await last.start(out, train, spec);
  await meet(3, [last, next, two]);
  await last.trainer.ended;
  assert.equal(last.end?.outcome, "Complete");
  assert.deepEqual([next.from, last.from], [two.from.slice(1), two.from.slice(2)], "all ranks go on from one step");
  return two.from;
}

test("a job whose experts spawn grows after it with the state that it has, and ends with the bits of one rank", {
  timeout: 300_000,
}, async () => {
  const model = { uri: "pvc://models/tiny", init: "Random" };
  const born = { ...unwritten, steps: 24, model, spawn: { step: 3 }, gate: "dense-to-sparse:4:0.1:6" };
  const pod = (name: string, rank: number): Pod => new Pod(`born-${name}`, rank);
  const [alone, zero, one, two] = [pod("alone", 0), pod("zero", 0), pod("one", 1), pod("two", 2)];
  await alone.start("born-quiet", train, specOf(born));
  await meet(1, [alone]);
  await alone.trainer.ended;
  assert.deepEqual(alone.from, [0, 3]);

  await Promise.all([zero, one, two].map((each) => each.start("born", train, specOf(born))));
  await meet(1, [zero]);
  await until("experts", () => zero.step >= 4);
  await meet(2, [zero, one, two]);
  await zero.trainer.ended;
  assert.equal(zero.end?.outcome, "Complete");
  const [, , grown] = zero.from;
  assert.ok(grown !== undefined && grown >= 4, `worlds went on from ${zero.from}`);
  assert.deepEqual([one.from, two.from], [[grown], [grown]], "no step is made again");
  assert.equal(digest("born"), digest("born-quiet"));
});

test("with shadows a lost rank, the first one too, costs the step in flight, and no checkpoint is read", { timeout: 300_000 }, async () => {
  assert.deepEqual(await withLosses("shadowed", {}), [0, 3, 5]);
  assert.equal(digest("shadowed"), digest("quiet"));
});

test("without them the run goes on from its checkpoint, here its begin, and ends with the same bits", { timeout: 300_000 }, async () => {
  assert.deepEqual(await withLosses("unshadowed", { failurePolicy: { shadow: false } }), [0, 0, 0]);
  assert.equal(digest("unshadowed"), digest("quiet"));
});
