// `enodia train trace` on training pods of this process, which meet over TLS and are reached on their loopback: what its file and tables
// have, askers beside each other, those that give up, and that the run ends with the bits of one that nobody asked.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "../../../crds/common.ts";
import { type MoETrainingJob, moeTrainingJobSpecSchema, parseMoETrainingJob } from "../../../crds/moe-training-job.ts";
import type { Transport } from "../../../runtime/net/collectives/transport.ts";
import { openOtlpLines } from "../../../runtime/observe/trace.ts";
import { train } from "../../../runtime/train/loop/run.ts";
import type { TrainPorts } from "../../../runtime/train/loop/train-ports.ts";
import type { TrainSettings } from "../../../runtime/train/loop/train-settings.ts";
import { trainSettings } from "../../../runtime/train/pod/job-settings.ts";
import { startTrainer, type Trainer } from "../../../runtime/train/pod/trainer.ts";
import type { RankContext } from "../../../runtime/train/ranks/rank-context.ts";
import { endedSpans } from "../../../runtime/train/trace/traced-step.ts";
import { trainWorlds } from "../../../runtime/train/worlds/together.ts";
import { freePort } from "../../../test/kit/network/free-port.ts";
import { tinyModel, writeCorpus } from "../../../test/kit/training/training.ts";
import { tell, tlsFolder, worldOf } from "../../../test/kit/training/training-pods.ts";
import { until } from "../../../test/kit/wait.ts";
import { type TraceRequest, traceJob } from "./train-trace.ts";

const folder = mkdtempSync(join(tmpdir(), "enodia-train-trace-"));
after(() => rmSync(folder, { recursive: true, force: true }));
const [steps, localSteps] = [42, 3];
const data = ["a", "b"].map((name) => join(folder, name));
const uids = ["pod-0", "pod-1"];

before(async () => {
  const tokens = Array.from({ length: 800 }, (_, i) => (i * 37 + ((i * i) % 11)) % tinyModel.vocab);
  await writeCorpus(data[0]!, tokens);
  await writeCorpus(data[1]!, tokens.toReversed());
});

const specOf = (change: object) => ({
  model: { uri: "pvc://models/tiny", init: "Random" },
  data: { uri: "pvc://data/a", sequenceLength: 8 },
  steps,
  batch: { sequences: 4, microBatches: 4 },
  memoryPerRank: "1Gi",
  checkpoint: { everySteps: steps, keep: 1 },
  output: { uri: "pvc://models/out" },
  fssdp: { planner: "hecate", memorySlots: 2, overlapDegree: 2 },
  ...change,
});

interface Job {
  readonly job: MoETrainingJob;
  readonly pods: readonly Trainer[];
  /** The newest step of the first rank. */
  step(): number;
  /** From now on it trains as fast as it can. The first pod writes the result; the others, which stay for a next world, are told to end. */
  toItsEnd(): Promise<void>;
}

const jobOf = (spec: object, status: object): MoETrainingJob =>
  parseMoETrainingJob({
    apiVersion: "enodia.dev/v1alpha1",
    kind: "MoETrainingJob",
    metadata: { name: "j", namespace: "ns", uid: "job", generation: 1 },
    spec,
    status,
  });
const running = (is: "True" | "False", reason: string) => ({
  conditions: [{ type: "Running", status: is, reason, message: "as it is", lastTransitionTime: "2026-01-01T00:00:00Z" }],
});

/** Steps of the tiny model are over before anybody has asked for them: until `hurried` each waits, and the last ones for that. */
function paced(transport: Transport, hurried: Promise<void>): Transport {
  const { rank, ranks } = transport;
  let hurries = false;
  void hurried.then(() => {
    hurries = true;
  });
  return {
    rank,
    ranks,
    receive: (...frame) => transport.receive(...frame),
    async send(to, stamp, name, payload) {
      if (!hurries && ["plan", "sign"].includes(name.what)) await (stamp.step > (3 * steps) / 4 ? hurried : sleep(50));
      return transport.send(to, stamp, name, payload);
    },
  };
}

/** Two pods that train, each on an address of its own. */
async function started(out: string, change: object = {}): Promise<Job> {
  const spec = moeTrainingJobSpecSchema.parse(specOf(change));
  const ranksPort = await freePort();
  let newest = 0;
  let hurry = (): void => {};
  const hurried = new Promise<void>((resolve) => {
    hurry = resolve;
  });
  const pods = await Promise.all(
    uids.map((podUid, rank) => {
      const here = (given: TrainSettings): TrainSettings => {
        const own = { ...given, model: tinyModel.dir, data: given.data.endsWith("/b") ? data[1]! : data[0]! };
        return { ...own, out: given.out.replace("/claims/models/out", join(folder, out)), result: join(folder, out) };
      };
      const run = (given: TrainSettings, ports: TrainPorts, seat?: RankContext) =>
        train(
          here(given),
          {
            ...ports,
            onStep(report) {
              ports.onStep(report);
              if (rank === 0) newest = report.step;
            },
          },
          seat && {
            ...seat,
            transport: paced(seat.transport, hurried),
            group: seat.group && { ...seat.group, transport: paced(seat.group.transport, hurried) },
          },
        );
      const own = { namespace: "ns", job: "j", jobUid: "job", podUid, rank, spec, tlsDir: tlsFolder(`rank-${rank}`, podUid) };
      const ports = { ranksPort, worldPort: 0, tracePort: 0 };
      const settings = { ...own, ...ports, endFile: join(folder, `${out}-${rank}.end`), logLevel: "silent" } as const;
      return startTrainer(settings, { run, host: `127.0.0.${rank + 1}` });
    }),
  );
  const world = worldOf(1, uids);
  const told = (trainer: Trainer, rank: number) =>
    until("a pod to take its world", async () => (await tell(trainer, world, { rank }))?.epoch === 1);
  await Promise.all(pods.map(told));
  await until("steps", () => newest > 0);
  const toItsEnd = async (): Promise<void> => {
    hurry();
    await pods[0]?.ended;
    for (const pod of pods) await pod.close();
  };
  return { job: jobOf(specOf(change), { ...running("True", "Training"), world }), pods, step: () => newest, toItsEnd };
}

/** Asks as the command does, by sockets in the place of forwarded ports. */
function ask({ job, pods }: Pick<Job, "job" | "pods">, file: string, change: Partial<TraceRequest> = {}): Promise<string> {
  const way: TraceRequest["connect"] = async (pod) => {
    const rank = uids.indexOf(pod);
    return connect(pods[rank]?.tracePort ?? 0, `127.0.0.${rank + 1}`);
  };
  const progress = { isTTY: false, write() {} };
  const asked = { json: false, steps: 4, output: join(folder, file), connect: way, progress, signal: new AbortController().signal };
  return traceJob(job, { ...asked, ...change });
}

interface Event {
  readonly ph: string;
  readonly name: string;
  readonly cat: string;
  readonly pid: number;
  readonly tid: number;
  readonly ts: number;
  readonly dur: number;
  readonly args: { readonly name?: string; readonly peer?: number };
}

/** What is in a file, which is held to the format: each row of a process has one span after another. */
function eventsOf(file: string): readonly Event[] {
  const { traceEvents } = JSON.parse(readFileSync(join(folder, file), "utf8")) as { traceEvents: Event[] };
  const spans = traceEvents.filter(({ ph }) => ph === "X");
  assert.ok(spans.every(({ ts, dur }) => Number.isInteger(ts) && Number.isInteger(dur) && ts >= 0 && dur >= 0));
  assert.equal(Math.min(...spans.map(({ ts }) => ts)), 0);
  for (const row of Map.groupBy(spans, ({ pid, tid }) => `${pid}/${tid}`).values()) {
    const inOrder = row.toSorted((a, b) => a.ts - b.ts || a.dur - b.dur);
    for (const [i, { ts }] of inOrder.entries()) {
      const before = inOrder[i - 1];
      assert.ok(before === undefined || before.ts + before.dur <= ts, "a row's spans do not overlap");
    }
  }
  return traceEvents;
}

const stepsIn = (events: readonly Event[], pid: number): string[] =>
  events.filter((event) => event.cat === "step" && event.pid === pid).map(({ name }) => name);
const digest = (out: string): string =>
  createHash("sha256")
    .update(readFileSync(join(folder, out, "huggingface/model.safetensors")))
    .digest("hex");

const quietPorts: TrainPorts = { now: () => 0, stopped: () => false, onStart() {}, onStep() {}, onValidation() {} };

test("a job is traced while it trains, by several at once, and ends with the bits of one that nobody asked", {
  timeout: 240_000,
}, async () => {
  const given = trainSettings(moeTrainingJobSpecSchema.parse(specOf({})));
  await train({ ...given, model: tinyModel.dir, data: data[0]!, out: join(folder, "quiet") }, quietPorts);

  const job = await started("traced");
  const [first, second] = await Promise.all([ask(job, "first.json"), ask(job, "second.json", { steps: 2, json: true })]);
  const events = eventsOf("first.json");
  assert.deepEqual(
    events.filter(({ name }) => name === "process_name").map(({ args }) => args.name),
    ["rank 0, pod-0", "rank 1, pod-1"],
  );
  const [made, others] = [stepsIn(events, 1), stepsIn(events, 2)];
  assert.equal(made.length, 4);
  assert.deepEqual(others, made);
  const [from, to] = [made[0], made[3]].map((name) => Number(name?.slice("step ".length)));
  assert.equal(to! - from!, 3);
  assert.match(first, new RegExp(`first\\.json: steps ${from} to ${to} of 2 ranks; open it at https://ui\\.perfetto\\.dev`));
  for (const pid of [1, 2])
    for (const kind of ["step", "compute", "dispatch", "spAG", "spRS", "meeting"])
      assert.ok(
        events.some((event) => event.pid === pid && event.cat === kind),
        `${kind} of process ${pid}`,
      );
  assert.ok(events.some(({ name, pid, args }) => pid === 1 && name === "receive squares" && args.peer === 1));
  // All ranks leave the exchange that commits a step together; here they have one clock, and frames pass within the process.
  const [left = [], alike = []] = [1, 2].map((pid) =>
    events.filter((event) => event.pid === pid && event.name === "receive squares").map(({ ts, dur }) => ts + dur),
  );
  assert.deepEqual([left.length, alike.length], [4, 4]);
  for (const [i, end] of left.entries()) assert.ok(Math.abs(end - (alike[i] ?? 0)) < 500_000, "within half a second on a busy machine");
  assert.match(first, /^MS A STEP +STEP +COMPUTE +DISPATCH +MEETING +\+SPRS +\+SPAG +HOST +BETWEEN$/m);
  assert.match(first, /^rank 1, pod-1 +[\d.]+ /m);
  assert.match(first, /^layer 1 +[\d.]+ /m);
  const told = JSON.parse(second);
  assert.deepEqual([told.wanted, told.made, told.ended, told.ranks.length], [2, 2, undefined, 2]);
  const { step, compute, dispatch, meeting, spRS, spAG, host } = told.ranks[0].times;
  assert.ok(Math.abs(step - (compute + dispatch + meeting + spRS + spAG + host)) < 1e-6 * step, "times of a step are the whole of it");
  assert.equal(eventsOf("second.json").filter(({ cat }) => cat === "step").length, 4);

  // As many as are told at once give up, again and again: a pod that told them still would refuse the next ones.
  for (let turn = 0; turn < 2; turn++) {
    const gone = new AbortController();
    const told = new Set<number>();
    const asked = Array.from({ length: 4 }, (_, n) => {
      const write = (text: string): void => void (/^[1-9]/.test(text) && told.add(n));
      return ask(job, `gone-${n}.json`, { steps: 1000, signal: gone.signal, progress: { isTTY: false, write } });
    });
    await until("all to be told a step", () => told.size === 4);
    await assert.rejects(ask(job, "fifth.json"), { code: "Refused", message: /4 are served already: end one of them/ });
    gone.abort();
    for (const text of await Promise.all(asked)) assert.match(text, /of 1000 steps: it was interrupted/);
  }
  const before = new AbortController();
  before.abort();
  await assert.rejects(ask(job, "none.json", { signal: before.signal }), {
    code: "NoSteps",
    message: /nothing is written: it was interrupted/,
  });
  for (const file of ["fifth.json", "none.json"]) assert.ok(!existsSync(join(folder, file)), file);
  assert.match(await ask(job, "first.json", { steps: 1 }), /of 2 ranks/, "an earlier trace is replaced");

  assert.ok(job.step() < steps, "the job has trained all the while");
  await job.toItsEnd();
  assert.equal(digest("traced"), digest("quiet"));
  await assert.rejects(ask(job, "late.json"), { code: "OldImage" }, "nobody listens any more");
});

test("worlds that meet have steps of their own in a trace, and their meetings", { timeout: 240_000 }, async () => {
  const local = { recipe: `fedavg:${localSteps}`, data: ["pvc://data/b"] };
  const change = { replicas: 2, elasticity: { minReplicas: 2, maxReplicas: 2 }, local };
  const given = trainSettings(moeTrainingJobSpecSchema.parse(specOf(change)));
  await trainWorlds({ ...given, model: tinyModel.dir, out: join(folder, "apart-quiet") }, data, () => quietPorts);

  const job = await started("apart", change);
  const text = await ask(job, "apart.json", { steps: 2 * localSteps });
  const events = eventsOf("apart.json");
  assert.deepEqual(
    events.filter(({ name }) => name === "process_name").map(({ args }) => args.name),
    ["rank 0 of world 0, pod-0", "rank 1 of world 1, pod-1"],
  );
  for (const pid of [1, 2]) {
    assert.equal(stepsIn(events, pid).length, 2 * localSteps);
    assert.ok(events.some((event) => event.pid === pid && event.name === "worlds meet" && event.cat === "meeting"));
    assert.ok(events.some((event) => event.pid === pid && event.name.startsWith("receive outer") && event.args.peer === 2 - pid));
  }
  assert.match(text, /^MS A STEP .* BETWEEN +WORLDS$/m);
  await job.toItsEnd();
  assert.equal(digest("apart"), digest("apart-quiet"));
});

test("jobs that do not train, files that are others' and numbers that are none are refused before anything is asked", async () => {
  const world = worldOf(1, uids);
  const silent = { pods: [] };
  const named = (status: object) => ({ ...silent, job: jobOf(specOf({}), status) });
  await assert.rejects(ask(named({}), "none.json"), { code: "NotReady", message: /^j has not begun; .*enodia train status j$/ });
  const over = { ...running("False", "Complete"), world };
  await assert.rejects(ask(named(over), "none.json"), { code: "NotReady", message: /^j does not train \(Complete: as it is\)/ });
  const trains = named({ ...running("True", "Training"), world });
  writeFileSync(join(folder, "notes.json"), "{}");
  await assert.rejects(ask(trains, "notes.json"), { code: "NotReplaceable" });
  const forbidden = async () => {
    throw new AppError("HTTP 403", { code: "Forbidden" });
  };
  await assert.rejects(ask(trains, "none.json", { connect: forbidden }), { code: "Forbidden", message: /^HTTP 403: .*pods\/portforward/ });
  assert.ok(!existsSync(join(folder, "none.json")));
});

test("an older image, another pod and a pod that says something else are told apart", async (t) => {
  const world = worldOf(1, ["pod-0"]);
  const job = { pods: [], job: jobOf(specOf({}), { ...running("True", "Training"), world }) };
  const port = await freePort();
  const at = (to: number): Partial<TraceRequest> => ({ connect: async () => connect(to, "127.0.0.1") });
  await assert.rejects(ask(job, "none.json", at(port)), { code: "OldImage", message: /pod pod-0 has no traces: its image is older/ });
  let body = "";
  const server = createServer((_, response) => void response.end(body)).listen(0, "127.0.0.1");
  t.after(() => server.close());
  await new Promise((resolve) => server.once("listening", resolve));
  const there = at((server.address() as { port: number }).port);
  const encode = async (pod: string) => openOtlpLines("trainer", { "k8s.pod.uid": pod });
  const span = { kind: "step", name: "step 1", layer: -1, fromMs: 1, toMs: 2 } as const;
  const encoding = { job: "job", originMs: Date.now(), most: 1 };
  const spans = (step: number, epoch: number) => [...endedSpans({ epoch, group: 0, step, spans: [span] }, encoding)].flat();
  const [own, other] = [await encode("pod-0"), await encode("another")];
  for (const [said, code] of [
    [other(spans(1, 1)), "WrongPod"],
    ["{}\n", "BadAnswer"],
    [own(spans(1, 1)).replaceAll('"step"', '"unheard"'), "BadAnswer"],
    [own(spans(0, 1)), "BadAnswer"],
    ["", "NoSteps"],
  ] as const) {
    body = said;
    await assert.rejects(ask(job, "none.json", there), { code }, code);
  }
  body = own(spans(1, 1)) + own(spans(2, 2));
  assert.match(await ask(job, "changed.json", there), /1 of 4 steps: the job's ranks changed/);
});
