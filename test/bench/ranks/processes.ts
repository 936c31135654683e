// Ranks as processes: test/kit/ranks/ranks.ts with each worker in a child process, so that a CPU quota can be set on it and its CPU time be
// read. The wire between them is the product's own.

import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { statSync } from "node:fs";
import { join } from "node:path";
import type { BackendName, CodecName } from "../../../crds/names.ts";
import type { WorkerSettings } from "../../../crds/process.ts";
import type { ExpertIndex } from "../../../runtime/weights/store.ts";
import type { Worker } from "../../../runtime/worker/worker.ts";
import { parse, sum } from "../../kit/kube/scrape.ts";
import { stop } from "../../kit/processes/process.ts";
import { deployment, deploymentUid, namespace, type Rank, Ranks } from "../../kit/ranks/ranks.ts";
import { workerSettings } from "../../kit/ranks/worker-settings.ts";
import { within } from "../../kit/wait.ts";
import { checkMemory, expertBytesOf, log } from "../serve.ts";
import type { Answer, Spent, Start } from "./child.ts";
import { type QuotaGroup, quotaGroup } from "./quota.ts";

export interface RankSettings {
  readonly backend: BackendName;
  readonly codec: CodecName;
  readonly threads: number;
  readonly maxContext: number;
  readonly kvPoolBytes: number;
  /** CPUs that each may use; undefined: as many as there are. */
  readonly cpus: number | undefined;
  /** Ranks that hold each expert; unset: one. */
  readonly copies?: number;
  /** Of its experts' bytes that the memory of each holds; unset: all. */
  readonly share?: number;
  readonly prefetch?: WorkerSettings["prefetch"];
  /** Called with each process before it opens the model. */
  readonly joins?: (rank: number, pid: number) => void;
}

/** What the ranks have used so far, all together, in milliseconds. */
export interface Used extends Readonly<Spent> {
  /** Bytes of rows that went from rank to rank, and of the answers. */
  readonly bytes: number;
}

type Started = Pick<Worker, "grpcPort" | "metricsPort" | "identity">;

/** Opening the model on a busy machine, beside what its bytes take; all other answers come at once. */
const answerMs = 120_000;
/** On a busy machine, packing included. */
const loadedBytesPerMs = 10_000;
const loadWithinMsLeast = 60_000;

export class RankProcesses extends Ranks {
  readonly #settings: RankSettings;
  readonly #count: number;
  readonly #expertBytes: number;
  override readonly loadWithinMs: number;
  /** Rows that chose each expert by the last call of `used`, since the start. */
  routed = new Float64Array(0);
  /** What each rank had used by then. */
  readonly spent = new Map<number, Spent>();
  readonly #children = new Map<number, ChildProcess>();
  /** Rejects when the process of the rank ends. */
  readonly #ended = new Map<number, Promise<never>>();
  readonly #groups: QuotaGroup[] = [];

  constructor(store: { dir: string; index: ExpertIndex }, count: number, settings: RankSettings) {
    super(store);
    this.#settings = settings;
    this.#count = count;
    this.#expertBytes = expertBytesOf(store.index, settings.codec);
    this.loadWithinMs = Math.ceil(loadWithinMsLeast + (this.#expertBytes * (settings.copies ?? 1)) / loadedBytesPerMs);
  }

  /** Starts so many ranks, places the experts evenly, and sets the quotas once all are loaded. */
  static async start(store: { dir: string; index: ExpertIndex }, count: number, settings: RankSettings): Promise<RankProcesses> {
    const ranks = new RankProcesses(store, count, settings);
    const { size } = statSync(join(store.dir, "dense.safetensors"));
    checkMemory(ranks.#expertBytes * (settings.copies ?? 1) + count * size, `${count} ranks (--ranks)`);
    const start = performance.now();
    try {
      await Promise.all(Array.from({ length: count }, (_, rank) => ranks.launch(rank)));
      await ranks.firstPlan(settings.copies);
      log(`${count} ranks with their experts after ${((performance.now() - start) / 1000).toFixed(1)} s`);
      ranks.#limit();
      return ranks;
    } catch (caught) {
      await ranks.close();
      throw caught;
    }
  }

  override async launch(rank: number): Promise<Rank> {
    const { backend, codec, threads, maxContext, kvPoolBytes, share, prefetch = "Off", joins } = this.#settings;
    const [podName, podUid] = [`${deployment}-${rank}-a`, `uid-${rank}-a`];
    const own = { namespace, deployment, deploymentUid, podName, podUid, rank, modelDir: this.dir, tlsDir: "", host: "127.0.0.1" };
    const ports = { grpcPort: 0, enginePort: 0, metricsPort: 0, probePort: 0 };
    const twoExperts = 2 / (this.index.layers * this.index.experts); // shares of ranks differ by one, and one comes
    const part = share === undefined ? 2 : share / this.#count + (share === 1 ? twoExperts : 0);
    const expertBudgetBytes = this.#expertBytes * part;
    const oversubscription = share === undefined ? "Never" : "Allow";
    const memory = { kvPoolBytes, expertBudgetBytes: Math.ceil(expertBudgetBytes), oversubscription, prefetch };
    const compute = { backend, codec, threads, maxContext, ...memory };
    const options = Object.assign(workerSettings(), own, ports, compute, { logLevel: "silent", version: "bench" });
    const child = fork(join(import.meta.dirname, "child.ts"), { stdio: ["ignore", "ignore", "inherit", "ipc"], serialization: "advanced" });
    this.#children.set(rank, child);
    joins?.(rank, child.pid as number);
    const ended = once(child, "exit").then(([code]) => {
      throw new Error(`the process of rank ${rank} ended with ${code}`);
    });
    ended.catch(() => {}); // it is told to, at the end
    this.#ended.set(rank, ended);
    const tls = this.ca.issue(`rank-${rank}`, namespace, deployment, podName).current();
    child.send({ options, tls } satisfies Start);
    const started = (await this.#answer(rank, child)) as Started;
    const worker = Object.assign(started, { close: () => stop(child) }) as unknown as Worker; // what is asked of it here, it has
    const entry = { rank, podUid, podName, worker };
    this.byRank.set(rank, entry);
    return entry;
  }

  async used(): Promise<Used> {
    this.routed = new Float64Array(this.index.layers * this.index.experts);
    const used = { cpu: 0, dense: 0, experts: 0, computed: 0, calls: 0, rows: 0, loads: 0, loadedBytes: 0, stalled: 0, bytes: 0 };
    for (const [rank, child] of this.#children) {
      child.send("used");
      const { spent, routed } = (await this.#answer(rank, child)) as Answer;
      this.spent.set(rank, spent);
      for (const [cell, rows] of routed.entries()) this.routed[cell] = (this.routed[cell] as number) + rows;
      for (const part of Object.keys(spent) as (keyof Spent)[]) used[part] += spent[part];
      const port = this.byRank.get(rank)?.worker.metricsPort;
      used.bytes += sum(parse(await (await fetch(`http://127.0.0.1:${port}/metrics`)).text()), "enodia_dispatch_bytes_total");
    }
    return used;
  }

  /** The process is gone at once and says nothing. */
  override async kill(rank: number): Promise<number> {
    const child = this.#children.get(rank);
    if (child === undefined) throw new Error(`no rank ${rank}`);
    const gone = once(child, "exit");
    child.kill("SIGKILL");
    await gone;
    return this.byRank.get(rank)?.worker.grpcPort ?? 0;
  }

  override async close(): Promise<void> {
    this.leaveAlone();
    await Promise.all([...this.#children.values()].map((child) => stop(child)));
    for (const group of this.#groups) group.remove();
  }

  #limit(): void {
    const { cpus } = this.#settings;
    if (cpus === undefined) return;
    for (const [rank, child] of this.#children) {
      const group = quotaGroup(`${process.pid}-${rank}`, cpus);
      if ("reason" in group) throw new Error(group.reason);
      this.#groups.push(group);
      group.join(child.pid as number);
    }
  }

  async #answer(rank: number, child: ChildProcess): Promise<unknown> {
    const first = Promise.race([once(child, "message"), this.#ended.get(rank)]);
    const [message] = (await within(answerMs + this.loadWithinMs, first, `rank ${rank} answers`)) as unknown[];
    return message;
  }
}
