// Training pods as processes of their own for tests, on addresses of loopback: told their worlds as the operator tells them, and waited
// for.

import { type ChildProcess, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import type { MoETrainingJobSpec } from "../../../crds/moe-training-job.ts";
import { parseTrainingEnd } from "../../../crds/training-report.ts";
import type { PodReport, TrainingWorld } from "../../../crds/training-world.ts";
import { until } from "../wait.ts";
import type { PodLine, PodProcess } from "./training-pod.ts";
import { podSettings, tell, worldOfPods } from "./training-pods.ts";

const program = fileURLToPath(new URL("./training-pod.ts", import.meta.url));

export interface PodPlace extends Pick<PodProcess, "folders" | "claims"> {
  readonly spec: MoETrainingJobSpec;
  readonly rank: number;
  /** The last number of its address. */
  readonly host: number;
  readonly ranksPort: number;
  /** Where it writes its end. */
  readonly ends: string;
}

export class PodOfProcess {
  readonly uid: string;
  readonly process: ChildProcess;
  /** The newest step that it made, and what each of its worlds went on from. */
  step = 0;
  readonly from: number[] = [];
  readonly #place: PodPlace;
  #port = 0;

  constructor(uid: string, place: PodPlace) {
    this.uid = uid;
    this.#place = place;
    const { spec, rank, ranksPort, folders, claims } = place;
    const given: PodProcess = {
      settings: podSettings({ podUid: uid, rank, spec, ranksPort, endFile: this.#endFile }),
      host: this.ip,
      folders,
      claims,
    };
    this.process = spawn(process.execPath, [program, JSON.stringify(given)], { stdio: ["ignore", "pipe", "inherit"] });
    createInterface({ input: this.process.stdout as NodeJS.ReadableStream }).on("line", (text) => this.#take(JSON.parse(text)));
  }

  get rank(): number {
    return this.#place.rank;
  }

  get ip(): string {
    return `127.0.0.${this.#place.host}`;
  }

  get end() {
    return parseTrainingEnd(readFileSync(this.#endFile, "utf8"));
  }

  async says(world?: TrainingWorld): Promise<PodReport | undefined> {
    if (this.#port === 0) return undefined;
    return tell({ port: this.#port }, world, { rank: this.#place.rank, uid: this.uid, ip: this.ip });
  }

  get #endFile(): string {
    return join(this.#place.ends, `${this.uid}.end`);
  }

  #take({ port = this.#port, from, step = this.step }: PodLine): void {
    this.#port = port;
    this.step = step;
    if (from !== undefined) this.from.push(from);
  }
}

/** All take the world. */
export async function meetIn(epoch: number, pods: readonly PodOfProcess[]): Promise<void> {
  const world = worldOfPods(epoch, pods);
  const told = (pod: PodOfProcess) => until("a pod to take its world", async () => (await pod.says(world))?.epoch === epoch);
  await Promise.all(pods.map(told));
}

/** All have left the world, and wait for another. */
export const outOf = (epoch: number, pods: readonly PodOfProcess[]): Promise<unknown> =>
  Promise.all(pods.map((pod) => until("a survivor to wait", async () => (await pod.says())?.left?.epoch === epoch)));
