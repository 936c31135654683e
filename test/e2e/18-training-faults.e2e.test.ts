// One training job through every fault and change, one after another while it trains: pods killed, deleted, added and given up, a node and
// the operator away, a loss in the middle of a checkpoint. It has the bits of a quiet run on one rank, and each pause is measured.
import assert from "node:assert/strict";
import { closeSync, fstatSync, openSync, readSync, watch } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { killNode, startNode } from "../cluster/cluster.ts";
import { kubectlOf, systemNamespace } from "../kit/deployment/product.ts";
import type { Kubectl, KubeObject } from "../kit/kube/kubectl.ts";
import { processOf } from "../kit/kube/pod-process.ts";
import { sleep, until } from "../kit/processes/process.ts";
import { isTraining, openTraining, stepOf, type TrainingWorld, worldIn } from "./training-world.ts";
import { clusterName } from "./world.ts";

const [name, quiet] = ["storm", "calm"];
const steps = 4_000;
/** The longest time between two steps, whatever happened. */
const pauseMsMost = 10_000;
/** A node that is off says no farewell: the others wait 8 s for a sign of life, then some looks of the operator follow. */
const silentPauseMsMost = 15_000;
const awayMs = 10_000;
let training: TrainingWorld;
let kubectl: Kubectl;
let system: Kubectl;
let watched: Steps;

/** The newest step that the first rank has written down, and the longest time between two of them. */
class Steps {
  readonly #path: string;
  readonly #timer: NodeJS.Timeout;
  #step = 0;
  #at = Date.now();
  #longest = 0;

  constructor(path: string) {
    this.#path = path;
    this.#timer = setInterval(() => this.#look(), 20);
  }

  #look(): void {
    const step = lastStep(this.#path);
    if (step <= this.#step) return;
    const now = Date.now();
    this.#longest = Math.max(this.#longest, now - this.#at);
    this.#step = step;
    this.#at = now;
  }

  /** The longest pause since it was asked last, in milliseconds. */
  take(): number {
    const longest = this.#longest;
    this.#longest = 0;
    return longest;
  }

  close(): void {
    clearInterval(this.#timer);
  }
}

const tailBytes = 4096;
/** Of the last line that is whole; 0 without one. */
function lastStep(path: string): number {
  let file: number;
  try {
    file = openSync(path, "r");
  } catch {
    return 0; // not there yet
  }
  try {
    const { size } = fstatSync(file);
    const tail = Buffer.alloc(Math.min(tailBytes, size));
    readSync(file, tail, 0, tail.length, size - tail.length);
    const whole = tail.toString("utf8").split("\n").slice(0, -1);
    return Number(/"step":(\d+)/.exec(whole.at(-1) ?? "")?.[1] ?? 0);
  } finally {
    closeSync(file);
  }
}

before(async () => {
  training = await openTraining("e2e-training-faults");
  ({ kubectl } = training);
  system = kubectlOf(training.target, systemNamespace);
});
after(async () => {
  watched?.close();
  await system?.try(["scale", "deployment/enodia", "--replicas=2"]);
  await training?.close();
});

const spec = { steps, batch: { sequences: 8, microBatches: 8 } };

const pauses: string[] = [];
/** Does something to the job, waits until as many ranks train again as are wanted, and tells the longest pause. */
async function through(what: string, ranks: number, act: (before: KubeObject) => Promise<void>, pauseMs = pauseMsMost): Promise<void> {
  const before = await kubectl.get("moet", name);
  const epoch = worldIn(before)?.epoch ?? 0;
  watched.take();
  await act(before);
  const steady = (moet: KubeObject): boolean =>
    isTraining(moet) && worldIn(moet)?.ranks.length === ranks && (worldIn(moet)?.epoch ?? 0) > epoch;
  const { status } = await kubectl.waitFor("moet", name, `${ranks} ranks to train after ${what}`, steady, 240_000);
  const at = Number(status?.step ?? 0);
  await kubectl.waitFor("moet", name, `steps after ${what}`, (moet) => steady(moet) && stepOf(moet) > at + 60, 180_000);
  const longest = watched.take();
  pauses.push(`${what}: ${longest} ms`);
  process.stderr.write(`# ${what}: the longest pause was ${longest} ms\n`);
  assert.ok(longest <= pauseMs, `${what}: ${longest} ms between two steps`);
}

const pidOf = async (moet: KubeObject, place: number): Promise<number> => processOf(worldIn(moet)?.ranks[place]?.uid ?? "");
const kill = async (moet: KubeObject, place: number): Promise<void> => void process.kill(await pidOf(moet, place), "SIGKILL");
const scale = (ranks: number) => kubectl.run(["scale", `moet/${name}`, `--replicas=${ranks}`]);

async function operatorPods(): Promise<readonly KubeObject[]> {
  return system.list("pods", "app.kubernetes.io/component=operator");
}

/** A rank on a node that the operator that acts is not on: that one's loss is another fault. */
async function nodeToLose(moet: KubeObject): Promise<string> {
  const leases = await system.list("leases");
  const holders = leases.map((lease) => String((lease as { spec?: { holderIdentity?: string } }).spec?.holderIdentity ?? ""));
  const acts = (await operatorPods()).filter(({ metadata }) => holders.some((holder) => holder.includes(metadata.name)));
  const taken = new Set(acts.map((pod) => pod.spec.nodeName));
  const found = worldIn(moet)?.ranks.find(({ node }) => !taken.has(node));
  assert.ok(found !== undefined, "a rank is on another node than the operator");
  return found.node;
}

test("a quiet run on one rank is what the other is held to", { timeout: 600_000 }, async () => {
  await kubectl.apply(training.job(quiet, spec));
  await training.complete(quiet);
});

test("a job goes through every fault and change with short pauses, no step that was made made again, and the same bits", {
  timeout: 1_800_000,
}, async () => {
  const elastic = { replicas: 4, elasticity: { minReplicas: 1, maxReplicas: 6 } };
  await kubectl.apply(training.job(name, { ...spec, ...elastic }));
  await kubectl.waitFor("moet", name, "four ranks to train", (moet) => isTraining(moet) && stepOf(moet) > 60, 180_000);
  watched = new Steps(join(training.folder, name, "metrics.jsonl"));

  await through("a rank is killed", 4, (moet) => kill(moet, 1));
  await through("the first rank is killed", 4, (moet) => kill(moet, 0));
  await through("a rank is killed while a checkpoint is written", 4, async (moet) => {
    const pid = await pidOf(moet, 2);
    const folder = watch(join(training.folder, name, "checkpoints"));
    await new Promise<void>((resolve) => {
      folder.once("change", () => {
        process.kill(pid, "SIGKILL");
        resolve();
      });
    });
    folder.close();
  });
  const { restarts } = (await kubectl.get("moet", name)).status ?? {};
  assert.equal(restarts, 3);
  await through("4 -> 3", 3, async () => void (await scale(3)));
  await through("3 -> 6", 6, async () => void (await scale(6)));
  await through("two pods are deleted", 6, async (moet) => {
    const [, one, two] = worldIn(moet)?.ranks ?? [];
    await kubectl.run(["delete", "pod", one?.pod ?? "", two?.pod ?? "", "--wait=false"]);
  });
  assert.equal((await kubectl.get("moet", name)).status?.restarts, 3, "pods that hand on what they have are no failures");

  await through(
    "the operator is away while a rank is killed",
    6,
    async (moet) => {
      await system.run(["scale", "deployment/enodia", "--replicas=0"]);
      await until("the operator to be gone", async () => ((await operatorPods()).length === 0 ? true : undefined), { timeoutMs: 90_000 });
      const before = lastStep(join(training.folder, name, "metrics.jsonl"));
      await sleep(2_000);
      assert.ok(lastStep(join(training.folder, name, "metrics.jsonl")) > before, "steps go on without an operator");
      await kill(moet, 3);
      await sleep(awayMs);
      await system.run(["scale", "deployment/enodia", "--replicas=2"]);
    },
    awayMs + 60_000,
  );

  let node = "";
  try {
    await through(
      "a node is off",
      6,
      async (moet) => {
        node = await nodeToLose(moet);
        await killNode(clusterName, node);
      },
      silentPauseMsMost,
    );
  } finally {
    if (node !== "") await startNode(clusterName, node);
  }

  const last = await kubectl.get("moet", name);
  for (const { uid } of worldIn(last)?.ranks ?? [])
    for (const { step, repeats } of await training.beginsOf(name, uid)) assert.equal(repeats, 0, `${uid}: from step ${step}`);
  await through("6 -> 1", 1, async () => void (await scale(1)));
  await training.complete(name, 900_000);
  assert.equal(training.digest(name), training.digest(quiet));
  process.stderr.write(`# longest pauses: ${pauses.join(", ")}\n`);
  await training.podsGone(name);
});
