// Ranks of training as processes: each under its share of the CPUs and, where that is to be had, in a network of its own. All of them get
// the same orders at once.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createTestCa } from "../../kit/network/certs.ts";
import { stop } from "../../kit/processes/process.ts";
import { within } from "../../kit/wait.ts";

import { type QuotaGroup, quotaGroup } from "../ranks/quota.ts";
import type { Order, RankStart, Took } from "./child.ts";
import type { Network } from "./networks.ts";
import type { Sizes } from "./workloads.ts";

export interface Setting {
  readonly sizes: Sizes;
  /** One for each rank. */
  readonly networks: readonly Network[];
  /** CPUs of each rank; undefined: no quotas. */
  readonly cpus: number | undefined;
}

/** Steps of a slow planner on a busy machine. */
const answerMs = 10 * 60_000;

export class TrainingRanks {
  readonly #networks: readonly Network[];
  readonly #groups: QuotaGroup[] = [];
  readonly #children: ChildProcess[] = [];
  /** Rejects when the process of the rank ends. */
  readonly #ended: Promise<never>[] = [];

  private constructor(networks: readonly Network[]) {
    this.#networks = networks;
  }

  static async start({ sizes, networks, cpus }: Setting): Promise<TrainingRanks> {
    const ranks = new TrainingRanks(networks);
    const ca = createTestCa();
    try {
      const starts = networks.map((network, rank): RankStart => {
        const tls = ca.issue(`rank-${rank}`, "default", "train").current();
        return { rank, ranks: networks.length, host: network.address, tls, sizes };
      });
      const addresses = await Promise.all(starts.map((start) => ranks.#launch(start)));
      await ranks.order({ do: "meet", addresses });
      if (cpus !== undefined) ranks.#limit(cpus);
      return ranks;
    } catch (caught) {
      await ranks.close();
      throw caught;
    }
  }

  order(order: Order): Promise<unknown[]> {
    return Promise.all(this.#children.map((_, rank) => this.#ask(rank, order)));
  }

  async steps(order: Omit<Extract<Order, { do: "steps" }>, "do">): Promise<{ readonly took: readonly Took[]; readonly cardBytes: number }> {
    const before = this.#cardBytes();
    const took = (await this.order(Object.assign({ do: "steps" as const }, order))) as Took[];
    return { took, cardBytes: this.#cardBytes() - before };
  }

  /** A process of another engine shares the rank's CPUs. */
  join(rank: number, pid: number): void {
    this.#groups[rank]?.join(pid);
  }

  async close(): Promise<void> {
    await Promise.all(this.#children.map((child) => stop(child)));
    for (const group of this.#groups) group.remove();
  }

  #cardBytes(): number {
    return this.#networks.reduce((sum, network) => sum + network.bytes(), 0);
  }

  async #launch(start: RankStart): Promise<string> {
    const entry = [process.execPath, "--disable-warning=ExperimentalWarning", join(import.meta.dirname, "child.ts")];
    const [program, ...args] = [...(this.#networks[start.rank]?.command ?? []), ...entry] as [string, ...string[]];
    const child = spawn(program, args, { stdio: ["ignore", "ignore", "inherit", "ipc"], serialization: "advanced" });
    this.#children[start.rank] = child;
    const ended = once(child, "exit").then(([code]) => {
      throw new Error(`the process of rank ${start.rank} ended with ${code}`);
    });
    ended.catch(() => {}); // it is told to, at the end
    this.#ended[start.rank] = ended;
    return (await this.#ask(start.rank, start)) as string;
  }

  async #ask(rank: number, order: Order | RankStart): Promise<unknown> {
    const child = this.#children[rank] as ChildProcess;
    const answered = within(answerMs, once(child, "message"), `rank ${rank} answers`);
    child.send(order);
    const [message] = (await Promise.race([answered, this.#ended[rank]])) as [{ answer: unknown; error?: string }];
    if (message.error !== undefined) throw new Error(`rank ${rank}: ${message.error}`);
    return message.answer;
  }

  #limit(cpus: number): void {
    for (const [rank, child] of this.#children.entries()) {
      const group = quotaGroup(`${process.pid}-${rank}`, cpus);
      if ("reason" in group) throw new Error(group.reason);
      this.#groups.push(group);
      group.join(child.pid as number);
    }
  }
}
