// Training pods that meet in worlds over TLS, as processes of this one: one that is lost, another number of ranks and a stop between leave
// the bits of a run alone, and whoever waits says so. With shadows a lost one costs the step in flight.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "../../crds/common.ts";
import { moeTrainingJobSpecSchema } from "../../crds/moe-training-job.ts";
import type { TrainerSettings } from "../../crds/training-process.ts";
import { parseTrainingEnd } from "../../crds/training-report.ts";
import type { PodWords } from "../../crds/training-world.ts";
import { tinyModel, writeCorpus } from "../../test/builders/training.ts";
import { tell, tlsFolder, worldOf } from "../../test/builders/training-pods.ts";
import { type TrainPorts, train } from "../train/run.ts";
import type { Seat } from "../train/seat.ts";
import type { TrainSettings } from "../train/settings.ts";
import { startTrainer, type Trainer } from "./trainer.ts";

const folder = mkdtempSync(join(tmpdir(), "enodia-worlds-"));
after(() => rmSync(folder, { recursive: true, force: true }));
const steps = 8;
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

const specOf = (change: object = {}) =>
  moeTrainingJobSpecSchema.parse({
    model: { uri: "pvc://models/tiny" },
    data: { uri: "pvc://data/tokens", sequenceLength: 8 },
    steps,
    batch: { sequences: 4, lanes: 4 },
    memoryPerRank: "1Gi",
    checkpoint: { everySteps: 2, keep: 2 },
    output: { uri: "pvc://models/out" },
    fssdp: { memorySlots: 1 },
    ...change,
  });

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
  /** Waited for after each step of this pod; the process stands still meanwhile. */
  hold: (step: number) => void = () => {};
  trainer!: Trainer;

  constructor(uid: string, rank: number) {
    this.uid = uid;
    this.rank = rank;
    this.endFile = join(folder, `${uid}.end`);
  }

  async start(out: string, run: Run = train, spec = specOf()): Promise<this> {
    const settings: TrainerSettings = {
      namespace: "ns",
      job: "j",
      jobUid: "job",
      podUid: this.uid,
      rank: this.rank,
      spec,
      tlsDir: tlsFolder(`rank-${this.rank}`),
      ranksPort,
      worldPort: 0,
      endFile: this.endFile,
      logLevel: "silent",
    };
    const own = (given: TrainSettings, ports: TrainPorts, seat?: Seat) => {
      const paths = { model: join(folder, "tiny"), data: join(folder, "tokens"), out: join(folder, out) };
      const onStep: TrainPorts["onStep"] = (report) => {
        ports.onStep(report);
        this.step = report.step;
        this.hold(report.step);
      };
      const onStart: TrainPorts["onStart"] = (start) => {
        ports.onStart(start);
        this.from.push(start.step);
      };
      return run({ ...given, ...paths }, { ...ports, onStart, onStep }, seat);
    };
    this.trainer = await startTrainer(settings, { run: own, host: `127.0.0.${this.rank + 1}` });
    this.trainer.ended.catch(() => {});
    pods.push(this);
    return this;
  }

  get end() {
    return parseTrainingEnd(readFileSync(this.endFile, "utf8"));
  }

  async says(epoch?: number, pods: readonly Pod[] = []): Promise<PodWords> {
    const world =
      epoch === undefined
        ? undefined
        : worldOf(
            epoch,
            pods.map(({ uid }) => uid),
          );
    for (;;) {
      const words = await tell(this.trainer, world, { rank: this.rank, uid: this.uid });
      if (words !== undefined) return words;
    }
  }
}

/** All of a world are told of it. */
async function meet(epoch: number, pods: readonly Pod[]): Promise<void> {
  await Promise.all(pods.map((pod) => pod.says(epoch, pods)));
}

async function until(what: string, probe: () => boolean | Promise<boolean>): Promise<void> {
  for (const end = Date.now() + 60_000; !(await probe()); await sleep(20))
    if (Date.now() > end) throw new Error(`${what}: not within 60 s`);
}
const digest = (out: string): string =>
  createHash("sha256")
    .update(readFileSync(join(folder, out, "huggingface/model.safetensors")))
    .digest("hex");

/** A run that is lost once `pod` has made a step: it leaves without a word, as a process that is killed does. */
function lostAfter(pod: Pod, step: number): Run {
  return (settings, ports, seat) => {
    const stopped = (): boolean => {
      if (pod.step >= step) throw new AppError("killed", { code: "Killed" });
      return ports.stopped();
    };
    return train(settings, { ...ports, stopped }, seat);
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

test("ranks that lose one, become fewer and more and are stopped between end with the bits of one alone", {
  timeout: 300_000,
}, async () => {
  const alone = await new Pod("alone", 0).start("quiet");
  await meet(1, [alone]);
  await alone.trainer.ended;
  assert.equal(alone.end?.outcome, "Complete");

  const [zero, one, two] = [new Pod("zero", 0), new Pod("one", 1), new Pod("two", 2)];
  await Promise.all([zero.start("ranks"), one.start("ranks", lostAfter(one, 3)), two.start("ranks")]);
  await meet(1, [zero, one, two]);
  await assert.rejects(one.trainer.ended, { code: "Killed" });
  await waits([zero, two], 1);

  const next = await new Pod("next", 1).start("ranks");
  await meet(2, [zero, next, two]);
  await until("a step", () => zero.step >= 4);
  await meet(3, [zero, next]);
  await two.says(3, [zero, next]);
  await until("the third to be out", async () => (await two.says()).training === 0);
  await two.trainer.close();
  assert.equal(two.end?.outcome, "Stopped");
  await until("a step on two ranks", () => zero.step >= 5);

  // A drain of one stops all, and they wait for who comes in its place.
  await next.trainer.close();
  assert.equal(next.end?.outcome, "Stopped");
  await until("the first to wait", async () => (await zero.says()).training === 0);
  assert.equal((await zero.says()).left?.code, "Stopped");
  await meet(4, [zero, await new Pod("last", 1).start("ranks"), await new Pod("third", 2).start("ranks")]);
  await zero.trainer.ended;
  assert.deepEqual([zero.end?.outcome, zero.end?.report?.step], ["Complete", steps]);
  assert.equal(digest("ranks"), digest("quiet"));
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
