// The state that steps of the training demo share once there is a cluster: the job under way, what pods have told of its worlds, and the
// ways to wait for what becomes of it. Shell.
import type { MoETrainingJobStatus } from "../../../crds/moe-training-job-status.ts";
import type { TrainingWorld, WorldMember } from "../../../crds/training-world.ts";
import { kubectlOf, type Target } from "../../kit/deployment/product.ts";
import type { Kubectl } from "../../kit/kube/kubectl.ts";
import { processOf } from "../../kit/kube/pod-process.ts";
import { type Demo, stepGiveUpMs } from "../show.ts";
import { RunLog } from "./run-log.ts";
import { metricsFile } from "./storage.ts";
import { type Begin, beginsIn, podLogs, Watch } from "./watch.ts";

/** Name of the job in its sample, and of the deployment that serves its result. */
export const job = "guides";

export interface TrainingDemo extends Demo {
  session?: Session;
  /** Of the deployment that serves the result. */
  url?: string;
}

interface Killed {
  readonly rank: number;
  readonly step: number;
}

/** Steps until a world counts as one that trains, as a share of all, and until its pods are asked: their logs go with them. */
const steadyShare = 0.06;
const toldShare = 0.02;

export class Session {
  readonly target: Target;
  readonly kubectl: Kubectl;
  readonly watch: Watch;
  readonly steps: number;
  readonly killed: Killed[] = [];
  /** Worlds as pods have told of them. */
  readonly #begins = new Map<number, Begin>();

  constructor({ namespace, signal }: Demo, target: Target, steps: number) {
    this.target = target;
    this.kubectl = kubectlOf(target, namespace);
    this.steps = steps;
    this.watch = new Watch({
      log: new RunLog(() => performance.now()),
      steps,
      metricsFile: metricsFile(),
      output: { isTTY: process.stdout.isTTY === true, write: (text) => void process.stdout.write(text) },
      signal,
      status: async () => ((await this.kubectl.get("moet", job)).status ?? {}) as MoETrainingJobStatus,
    });
  }

  get world(): TrainingWorld {
    const { world } = this.watch.log.status;
    if (world === undefined) throw new Error("the job has no world");
    return world;
  }

  /** In the order of worlds. */
  get begins(): readonly Begin[] {
    return [...this.#begins.values()].toSorted((a, b) => a.world - b.world);
  }

  /** Waits for a world of so many ranks, later than `after`, to make steps. */
  async steady(ranks: number, after: number): Promise<void> {
    const { log } = this.watch;
    let from: number | undefined;
    const made = (share: number) => (): true | undefined => {
      const { world, conditions = [] } = log.status;
      const running = conditions.find(({ type }) => type === "Running")?.reason === "Training";
      if (running && world !== undefined && world.epoch > after && world.ranks.length === ranks) from ??= log.step;
      return from !== undefined && log.step >= from + share * this.steps ? true : undefined;
    };
    const what = `a world of ${ranks} ranks to make steps`;
    await this.watch.until(what, made(toldShare), stepGiveUpMs);
    await this.#noteBegins();
    await this.watch.until(what, made(steadyShare), stepGiveUpMs);
  }

  /** Ends the process of a rank without a word, where it can be reached; else its pod is taken away. */
  async kill({ rank, pod, uid }: WorldMember): Promise<{ readonly how: string; readonly step: number }> {
    const { local } = this.target;
    if (local !== undefined) process.kill(await processOf(uid), "SIGKILL");
    else await this.kubectl.run(["delete", "pod", pod, "--grace-period=0", "--force", "--wait=false"]);
    const how = local === undefined ? "deleted by force" : "SIGKILL";
    const { step } = this.watch.log;
    this.killed.push({ rank, step });
    this.watch.log.happened(`rank ${rank} killed (${how})`);
    return { how, step };
  }

  /** What pods that are there say of their worlds; of a world that several tell of, the most steps that one made again. */
  async #noteBegins(): Promise<void> {
    const pods = await this.kubectl.list("pods", `enodia.dev/training-job=${job}`);
    const { binary, flags } = this.kubectl;
    const logs = await podLogs(
      binary,
      flags,
      pods.map(({ metadata }) => metadata.name),
    );
    for (const begin of logs.flatMap(beginsIn)) {
      const known = this.#begins.get(begin.world);
      if (known === undefined || begin.repeats > known.repeats) this.#begins.set(begin.world, begin);
    }
  }
}

export function sessionOf({ session }: TrainingDemo): Session {
  if (session === undefined) throw new Error("an earlier step did not hold");
  return session;
}
