// Training pods as processes that are killed and stopped in the middle of whatever they do: the others repeat the step in flight at most,
// without a checkpoint, and one that wakes after it was given up changes nothing.
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { moeTrainingJobSpecSchema } from "../../crds/moe-training-job.ts";
import { parseTrainingEnd } from "../../crds/training-report.ts";
import type { PodWords, TrainingWorld } from "../../crds/training-world.ts";
import { tinyModel, writeCorpus } from "../../test/builders/training.ts";
import { tell, tlsFolder, worldOfPods } from "../../test/builders/training-pods.ts";
import type { PodLine, PodProcess } from "../../test/support/training-pod.ts";

const folder = mkdtempSync(join(tmpdir(), "enodia-killed-"));
const program = fileURLToPath(new URL("../../test/support/training-pod.ts", import.meta.url));
const steps = 120;
let ranksPort = 0;
const children: ChildProcess[] = [];

before(async () => {
  const tokens = Array.from({ length: 4000 }, (_, i) => (i * 37 + ((i * i) % 11)) % tinyModel.vocab);
  await writeCorpus(join(folder, "tokens"), tokens);
  // A port that nobody has on any address: pods of a job have the same.
  const probe = createServer().listen(0);
  await new Promise((resolve) => probe.once("listening", resolve));
  ranksPort = (probe.address() as { port: number }).port;
  await new Promise((resolve) => probe.close(resolve));
});
after(() => {
  for (const child of children) child.kill("SIGKILL");
  rmSync(folder, { recursive: true, force: true });
});

const spec = moeTrainingJobSpecSchema.parse({
  model: { uri: "pvc://models/tiny", init: "Random" },
  data: { uri: "pvc://data/tokens", sequenceLength: 8 },
  steps,
  batch: { sequences: 4, lanes: 4 },
  memoryPerRank: "1Gi",
  // Nothing but the last step is written.
  checkpoint: { everySteps: steps, keep: 1 },
  output: { uri: "pvc://models/out" },
});

interface Place {
  readonly out: string;
  readonly rank: number;
  /** The last number of its address. */
  readonly host: number;
}

class Pod {
  readonly uid: string;
  readonly place: Place;
  readonly process: ChildProcess;
  step = 0;
  readonly from: number[] = [];
  #port = 0;

  constructor(uid: string, place: Place) {
    this.uid = uid;
    this.place = place;
    const { rank, out } = place;
    const endFile = join(folder, `${uid}.end`);
    const settings = { namespace: "ns", job: "j", jobUid: "job", podUid: uid, rank, spec, tlsDir: tlsFolder(`rank-${rank}`) };
    const given: PodProcess = {
      settings: { ...settings, ranksPort, worldPort: 0, endFile, logLevel: "silent" },
      host: this.ip,
      folders: { model: tinyModel.dir, data: join(folder, "tokens"), out: join(folder, out) },
    };
    this.process = spawn(process.execPath, [program, JSON.stringify(given)], { stdio: ["ignore", "pipe", "inherit"] });
    children.push(this.process);
    createInterface({ input: this.process.stdout as NodeJS.ReadableStream }).on("line", (text) => this.#take(JSON.parse(text)));
  }

  get ip(): string {
    return `127.0.0.${this.place.host}`;
  }

  get end() {
    return parseTrainingEnd(readFileSync(join(folder, `${this.uid}.end`), "utf8"));
  }

  async says(world?: TrainingWorld): Promise<PodWords | undefined> {
    if (this.#port === 0) return undefined;
    return tell({ port: this.#port }, world, { rank: this.place.rank, uid: this.uid, ip: this.ip });
  }

  #take({ port = this.#port, from, step = this.step }: PodLine): void {
    this.#port = port;
    this.step = step;
    if (from !== undefined) this.from.push(from);
  }
}

async function until(what: string, probe: () => boolean | Promise<boolean>): Promise<void> {
  for (const end = Date.now() + 120_000; !(await probe()); await sleep(20))
    if (Date.now() > end) throw new Error(`${what}: not within 120 s`);
}

const asMember = ({ uid, ip, place: { rank } }: Pod) => ({ uid, ip, rank });

async function meet(epoch: number, pods: readonly Pod[], leaving: readonly Pod[] = []): Promise<void> {
  const world = worldOfPods(epoch, pods.map(asMember), leaving.map(asMember));
  const told = (pod: Pod) => until("a pod to take its world", async () => (await pod.says(world))?.epoch === epoch);
  await Promise.all([...pods, ...leaving].map(told));
}

const out = (pods: readonly Pod[], epoch: number): Promise<unknown> =>
  Promise.all(pods.map((pod) => until("a survivor to wait", async () => (await pod.says())?.left?.epoch === epoch)));

const digest = (name: string): string =>
  createHash("sha256")
    .update(readFileSync(join(folder, name, "huggingface/model.safetensors")))
    .digest("hex");

async function complete(first: Pod): Promise<void> {
  await until("the end", () => first.process.exitCode !== null);
  assert.deepEqual([first.end?.outcome, first.end?.report?.step], ["Complete", steps]);
}

test("a killed rank and a first one that stands still cost the step in flight, and the bits are those of one rank", {
  timeout: 480_000,
}, async () => {
  const alone = new Pod("alone", { out: "quiet", rank: 0, host: 9 });
  await meet(1, [alone]);
  await complete(alone);

  const [zero, one, two] = [0, 1, 2].map((rank) => new Pod(`pod-${rank}`, { out: "ranks", rank, host: rank + 1 })) as [Pod, Pod, Pod];
  await meet(1, [zero, one, two]);
  await until("steps", () => one.step >= 10);
  one.process.kill("SIGKILL");
  await out([zero, two], 1);
  const made = Math.max(zero.step, two.step);
  const next = new Pod("next", { out: "ranks", rank: 1, host: 4 });
  await meet(2, [zero, next, two]);
  await until("the second world", () => zero.from.length > 1);
  assert.ok((zero.from[1] as number) >= made, `from ${zero.from[1]}, ${made} were made`);

  await until("more steps", () => zero.step >= made + 10);
  zero.process.kill("SIGSTOP");
  await out([next, two], 2);
  const then = Math.max(next.step, two.step);
  const first = new Pod("first", { out: "ranks", rank: 0, host: 5 });
  await meet(3, [first, next, two]);
  await until("the third world", () => first.from.length > 0);
  assert.ok((first.from[0] as number) >= then, `from ${first.from[0]}, ${then} were made`);
  zero.process.kill("SIGCONT");
  await until("who was given up to say so", async () => (await zero.says())?.left?.epoch === 2);
  await complete(first);
  assert.equal(digest("ranks"), digest("quiet"));
  const lines = readFileSync(join(folder, "ranks/metrics.jsonl"), "utf8").trim().split("\n");
  const told = lines.map((line) => (JSON.parse(line) as { step: number }).step);
  assert.deepEqual(
    told,
    [...new Set(told)].toSorted((a, b) => a - b),
    "each step once, in order",
  );
});
