// Gets plan and membership from peers of the headless Service while the operator is away; the operator's pushes win.

import type { Peers } from "../experts/peers.ts";
import { type AskOptions, askPeers } from "../net/peer-snapshot.ts";
import type { Log } from "../observe/log.ts";
import type { PlanKeeper } from "./plan-keeper.ts";

/** Milliseconds. */
const joinEveryMs = 1_000;

export interface JoinerOptions extends AskOptions {
  readonly log: Log;
  readonly peers: Peers;
  readonly plan: PlanKeeper;
}

export class Joiner {
  readonly #options: JoinerOptions;
  #busy = false;

  constructor(options: JoinerOptions) {
    this.#options = options;
  }

  /** Asks a rank that knows a newer epoch. */
  async from(rank: number): Promise<void> {
    const address = this.#options.peers.member(rank)?.address;
    if (address !== undefined) await this.#take(async () => [address]);
  }

  start(addresses: () => Promise<readonly string[]>, operatorPresent: () => boolean): () => void {
    const { peers, plan } = this.#options;
    const timer = setInterval(() => {
      const complete = peers.membership.version > 0 && plan.state.complete;
      if (!complete && !operatorPresent()) void this.#take(addresses);
    }, joinEveryMs);
    timer.unref();
    return () => clearInterval(timer);
  }

  async #take(addresses: () => Promise<readonly string[]>): Promise<void> {
    if (this.#busy) return;
    this.#busy = true;
    try {
      const { plan, membership } = await askPeers(await addresses(), this.#options);
      if (membership !== undefined) this.#options.peers.apply(membership);
      if (plan !== undefined) await this.#options.plan.adopt(plan);
    } catch (err) {
      this.#options.log.warn({ err }, "what a peer sent was refused");
    } finally {
      this.#busy = false;
    }
  }
}
