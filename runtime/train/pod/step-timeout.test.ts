// The time that ranks wait for one another in a step, by a clock of its own; and two pods of which one stands still in a step though its
// process lives: the other is told in that time, and the one that stands still ends by itself, so that another can come.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { parseTrainingEnd } from "../../../crds/training-report.ts";
import { freePort } from "../../../test/kit/network/free-port.ts";
import { tinyModel, writeCorpus } from "../../../test/kit/training/training.ts";
import { podSettings, podSpec, tell, worldOf } from "../../../test/kit/training/training-pods.ts";
import { frameMsMax, type Transport } from "../../net/collectives/transport.ts";
import { train } from "../loop/run.ts";
import type { TrainPorts } from "../loop/train-ports.ts";
import type { TrainSettings } from "../loop/train-settings.ts";
import type { RankContext } from "../ranks/rank-context.ts";
import { Recorder } from "../trace/recorder.ts";
import { StepTimeout } from "./step-timeout.ts";
import { startTrainer } from "./trainer.ts";

const folder = mkdtempSync(join(tmpdir(), "enodia-step-timeout-"));
after(() => rmSync(folder, { recursive: true, force: true }));

class Steps {
  now = 0;
  readonly timeout: StepTimeout;

  constructor(setting: string) {
    const clock = (): number => this.now;
    this.timeout = new StepTimeout(setting, new Recorder(clock), clock);
  }

  async take(ms: number, kind: "step" | "compute" = "step"): Promise<void> {
    await this.timeout.around({ kind, name: kind, layer: -1 }, async () => {
      this.now += ms;
    });
  }
}

test("Auto waits for ten steps, for 30 s at least, and as for any frame before a step is known or where it is none of a step", async () => {
  const steps = new Steps("Auto");
  assert.equal(steps.timeout.frameMs("rows"), frameMsMax);
  await steps.take(9_000, "compute");
  assert.equal(steps.timeout.frameMs("rows"), frameMsMax, "computing is no step");
  for (const ms of [100, 100, 90_000]) await steps.take(ms);
  assert.equal(steps.timeout.frameMs("rows"), 30_000);
  for (let i = 0; i < 20; i++) await steps.take(5_000);
  assert.equal(steps.timeout.frameMs("squares"), 50_000);
  for (const what of ["handover", "state", "primaries", "begun", "sign", "outer", "means"])
    assert.equal(steps.timeout.frameMs(what), frameMsMax, what);
  for (let i = 0; i < 20; i++) await steps.take(100_000);
  assert.equal(steps.timeout.frameMs("rows"), frameMsMax);
});

test("a run that is still in a step long after its world is over has failed, and one that is in none has ten minutes", {
  timeout: 20_000,
}, async () => {
  const steps = new Steps("5s");
  await steps.take(1_000);
  const never = new Promise<never>(() => {});
  const inStep = steps.timeout.notStuck(
    steps.timeout.around({ kind: "step", name: "step", layer: -1 }, () => never),
    () => true,
  );
  const between = new Steps("5s");
  await between.take(1_000);
  const clocks = setInterval(() => {
    steps.now += 9_000;
    between.now += 200_000;
  }, 1_500);
  try {
    await assert.rejects(inStep, { code: "StepStuck", message: /over for (9|18) s/ });
    const done = sleep(4_000).then(() => "done");
    assert.equal(await between.timeout.notStuck(done, () => true), "done");
    assert.equal(await between.timeout.notStuck(Promise.resolve("made"), () => false), "made");
  } finally {
    clearInterval(clocks);
  }
});

test("what the spec gives holds from the first step on, and a step that fails says nothing of what one takes", async () => {
  const given = new Steps("1m30s");
  assert.equal(given.timeout.frameMs("rows"), 90_000);
  const auto = new Steps("Auto");
  const failing = auto.timeout.around({ kind: "step", name: "step", layer: -1 }, () => Promise.reject(new Error("lost")));
  await assert.rejects(failing, /lost/);
  assert.equal(auto.timeout.frameMs("rows"), frameMsMax);
});

const spec = podSpec({ failurePolicy: { stepTimeout: "5s" } });

/** Sends nothing of one exchange of one step, and does not fail either: as a rank whose disk does not answer. */
function standingStill(transport: Transport): Transport {
  const { rank, ranks } = transport;
  return {
    rank,
    ranks,
    send: (to, stamp, name, payload) =>
      stamp.step === 3 && name.what === "counts" ? new Promise(() => {}) : transport.send(to, stamp, name, payload),
    receive: (from, stamp, wanted) => transport.receive(from, stamp, wanted),
  };
}

test("a rank that lives and stands still ends the step for the other in that time, and then itself", { timeout: 120_000 }, async (t) => {
  await writeCorpus(
    join(folder, "tokens"),
    Array.from({ length: 400 }, (_, i) => (i * 37) % tinyModel.vocab),
  );
  const ranksPort = await freePort();
  const endFile = (rank: number): string => join(folder, `pod-${rank}.end`);
  const pods = await Promise.all(
    [0, 1].map((rank) => {
      const settings = podSettings({ rank, spec, ranksPort, endFile: endFile(rank) });
      const run = (given: TrainSettings, ports: TrainPorts, context?: RankContext) => {
        const paths = { model: tinyModel.dir, data: join(folder, "tokens"), out: join(folder, "out") };
        const place = context && rank === 1 ? { ...context, transport: standingStill(context.transport) } : context;
        return train({ ...given, ...paths }, ports, place);
      };
      return startTrainer(settings, { run, host: `127.0.0.${rank + 1}` });
    }),
  );
  const [first, second] = pods as [(typeof pods)[number], (typeof pods)[number]];
  t.after(() => first.close());
  second.ended.catch(() => {});
  const world = worldOf(1, ["pod-0", "pod-1"]);
  await Promise.all(pods.map((pod, rank) => tell(pod, world, { rank })));
  const left = async () => (await tell(first, world))?.left;
  while ((await left()) === undefined) await sleep(100);
  const why = await left();
  assert.deepEqual(
    [why?.code, /rank 1 sent no counts of layer 0 for 5000 ms/.test(why?.message ?? "")],
    ["RankSilent", true],
    why?.message,
  );
  await tell(second, worldOf(2, ["pod-0", "pod-1"]), { rank: 1 });
  await assert.rejects(second.ended, { code: "StepStuck", message: /still in its step: see whether its volumes answer/ });
  const end = parseTrainingEnd(readFileSync(endFile(1), "utf8"));
  assert.deepEqual([end?.outcome, end?.code, end?.retry, end?.report?.step], ["Failed", "StepStuck", true, 2]);
});
