// Follows a training job: reads its file of metrics and its status again and again, and prints the progress that `enodia train` prints
// while a step of the demo waits. On the cluster that is shown the volume is a folder of this machine. Shell.
import { readFile, stat } from "node:fs/promises";
import type { MoETrainingJobStatus } from "../../../crds/moe-training-job-status.ts";
import { type ProgressOutput, TrainProgress } from "../../../operator/cli/train-progress.ts";
import { exec, sleep, unlessAborted } from "../../kit/processes/process.ts";
import type { RunLog } from "./run-log.ts";

/** The file of metrics is looked at this often, the status, by a kubectl, less often. */
const metricsMs = 250;
const statusMs = 1_500;
/** Looks in a row that may fail: an API server under load leaves some unanswered. */
const failuresMax = 5;

interface Watched {
  readonly log: RunLog;
  readonly steps: number;
  readonly metricsFile: string;
  readonly output: ProgressOutput;
  readonly signal: AbortSignal;
  status(): Promise<MoETrainingJobStatus>;
}

export class Watch {
  readonly log: RunLog;
  readonly #watched: Watched;
  readonly #progress: TrainProgress;
  readonly #end = new AbortController();
  #shown = 0;
  #happenings = 0;
  #mark = "";
  #failed: unknown;

  constructor(watched: Watched) {
    this.#watched = watched;
    this.log = watched.log;
    this.#progress = new TrainProgress(watched.output, watched.steps, () => performance.now());
    const failed = (error: unknown): void => {
      if (!this.#end.signal.aborted) this.#failed = error;
    };
    const signal = AbortSignal.any([this.#end.signal, watched.signal]);
    void this.#again(metricsMs, signal, () => this.#metrics()).catch(failed);
    void this.#again(statusMs, signal, async () => this.log.take(await watched.status())).catch(failed);
  }

  /** Prints until `reached` gives something; throws where the job cannot get there any more. */
  async until<T>(what: string, reached: () => T | undefined, timeoutMs: number): Promise<T> {
    const { output, signal } = this.#watched;
    const deadline = performance.now() + timeoutMs;
    try {
      for (;;) {
        signal.throwIfAborted();
        if (this.#failed !== undefined) throw this.#failed;
        this.#print();
        const value = reached();
        if (value !== undefined) return value;
        this.#refuseEnd(what);
        if (performance.now() > deadline) throw new Error(`waited ${timeoutMs / 1000} s for ${what}`);
        await sleep(metricsMs, signal);
      }
    } finally {
      if (output.isTTY) output.write("\n"); // what was seen before a failure stays
    }
  }

  /** The file and the status as they are now. */
  async refresh(): Promise<void> {
    await this.#metrics();
    this.log.take(await this.#watched.status());
  }

  close(): void {
    this.#end.abort();
  }

  #refuseEnd(what: string): void {
    const over = this.log.status.conditions?.find(({ type, status }) => (type === "Failed" || type === "Complete") && status === "True");
    if (over?.type === "Failed") throw new Error(`the job has failed: ${over.reason}: ${over.message}`);
    if (over?.type === "Complete") throw new Error(`all steps were done before ${what}`);
    const refused = this.log.status.conditions?.find(({ type, status }) => type === "SpecAccepted" && status === "False");
    if (refused !== undefined) throw new Error(`the job is refused: ${refused.message}`);
  }

  async #again(everyMs: number, signal: AbortSignal, look: () => Promise<void>): Promise<void> {
    let failures = 0;
    for (;;) {
      try {
        await unlessAborted(look(), signal);
        failures = 0;
      } catch (error) {
        failures += 1;
        if (signal.aborted || failures > failuresMax) throw error;
      }
      await sleep(everyMs, signal);
    }
  }

  /** Read where it has changed since; there is none before the first step. */
  async #metrics(): Promise<void> {
    const { metricsFile } = this.#watched;
    const found = await stat(metricsFile).catch(() => undefined);
    if (found !== undefined) {
      const mark = `${found.ino} ${found.size} ${found.mtimeMs}`;
      if (mark !== this.#mark) this.log.read(await readFile(metricsFile, "utf8"));
      this.#mark = mark;
    }
  }

  /** Steps and events since the last call. */
  #print(): void {
    const { log } = this;
    for (const { seconds, step, what } of log.happenings.slice(this.#happenings))
      this.#progress.say(`${seconds.toFixed(0).padStart(6)} s  step ${step}: ${what}`);
    this.#happenings = log.happenings.length;
    for (const line of log.lines.filter(({ step }) => step > this.#shown)) this.#progress.step(line);
    this.#shown = Math.max(this.#shown, log.step);
  }
}

/** A world as a pod went into it: the step that it went on from, and how many that it had made itself were made again. */
export interface Begin {
  readonly world: number;
  readonly ranks: number;
  readonly step: number;
  readonly repeats: number;
}

/** The worlds of a pod, by its log. */
export function beginsIn(log: string): Begin[] {
  const begins: Begin[] = [];
  let place: Pick<Begin, "world" | "ranks"> | undefined;
  for (const line of log.split("\n")) {
    if (!line.startsWith("{")) continue;
    const { message, world, ranks, step, repeats } = JSON.parse(line);
    if (message === "a world begins") place = { world, ranks };
    else if (message === "training" && place !== undefined) begins.push({ ...place, step, repeats });
  }
  return begins;
}

/** Logs of pods that are there; one that has just gone has none. */
export async function podLogs(kubectl: string, flags: readonly string[], pods: readonly string[]): Promise<readonly string[]> {
  const logs = await Promise.all(pods.map((pod) => exec(kubectl, [...flags, "logs", pod, "-c", "runtime"])));
  return logs.filter(({ code }) => code === 0).map(({ stdout }) => stdout);
}
