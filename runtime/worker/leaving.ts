// The way out of a worker. The operator says when nothing depends on it any more (drain), the kubelet when its pod is to end (hand over).
import { setTimeout as sleep } from "node:timers/promises";
import type { Engine } from "../engine/engine.ts";
import type { Peers } from "../experts/peers.ts";
import type { Log } from "../observe/log.ts";

/** It is looked so often whether the worker may end. */
const lookMs = 50;
/** Before the end of the grace period: requests that still run are cut, so that they go on elsewhere while experts are served here. */
const cutBeforeEndMs = 10_000;
/** Before the end of the grace period: what is left ends, so that closing is orderly. */
const closeBeforeEndMs = 3_000;
/** An operator that is away this long is not waited for; another one leads within it. */
const operatorAwayMs = 15_000;
/** Peers are asked this often whether they leave as well. */
const askPeersMs = 1_000;
/** The longest that a timer waits, in milliseconds: one that is given more ends at once. */
const timerMsMax = 2 ** 31 - 1;
const realTime = { now: () => performance.now(), sleep: (ms: number) => sleep(ms) };

export interface LeavingOptions {
  readonly engine: Pick<Engine, "drain" | "load">;
  readonly peers: Pick<Peers, "self" | "membership">;
  /** True while other ranks may ask this one for experts: the plan, or the one before it, names it. */
  readonly hosts: () => boolean;
  readonly operatorWatches: () => boolean;
  /** True when no rank stays that could ask this one. */
  readonly othersLeave: () => Promise<boolean>;
  /** The reason for which nothing can be computed here any more. */
  readonly dead: () => string | undefined;
  /** What status and readiness show has changed. */
  readonly onChange: () => void;
  readonly log: Log;
  /** Time as the wait knows it; tests have one of their own. */
  readonly time?: { now(): number; sleep(ms: number): Promise<unknown> };
}

export class Leaving {
  readonly #options: LeavingOptions;
  #drained = false;
  #ending = false;
  #cut: NodeJS.Timeout | undefined;

  constructor(options: LeavingOptions) {
    this.#options = options;
  }

  /** The operator said that requests may finish here and that nothing else depends on this rank. */
  get draining(): boolean {
    return this.#drained;
  }
  /** The process was told to end. */
  get ending(): boolean {
    return this.#ending;
  }

  /** True when a request is to go elsewhere. A worker that ends takes it all the same where no other rank would. */
  refuses(): boolean {
    if (this.#drained || !this.#ending) return this.#drained;
    const { self, membership } = this.#options.peers;
    return membership.members.some(({ rank, state }) => rank !== self.rank && state === "active");
  }

  /** Takes new requests or refuses them; those that run may go on for `finishMs` and are then cut. */
  async drain(on: boolean, finishMs = 0): Promise<void> {
    const { engine, onChange } = this.#options;
    this.#drained = on;
    clearTimeout(this.#cut);
    if (on && finishMs > 0 && engine.load().activeRequests > 0)
      this.#cut = setTimeout(() => void this.#cutRequests(), Math.min(finishMs, timerMsMax)).unref();
    else await engine.drain(on);
    onChange();
  }

  /** Resolves when the process may end, or must. */
  async handOver(graceMs: number): Promise<void> {
    const { engine, hosts, dead, log, onChange, time = realTime } = this.#options;
    const startedAt = time.now();
    this.#ending = true;
    onChange();
    log.info({ graceMs, activeRequests: engine.load().activeRequests, experts: hosts() }, "told to end: handing over");
    const needed = this.#needed(time.now);
    for (let cut = false; dead() === undefined; ) {
      const leftMs = graceMs - (time.now() - startedAt);
      if (leftMs <= closeBeforeEndMs) break;
      if (!cut && leftMs <= cutBeforeEndMs) {
        cut = true;
        await this.#cutRequests();
      }
      if (engine.load().activeRequests === 0 && !(await needed())) return;
      await time.sleep(lookMs);
    }
    log.warn({ activeRequests: engine.load().activeRequests, experts: hosts() }, "ends without having handed over all");
  }

  /** Whether experts are still to be served here, as it is asked again and again. */
  #needed(clock: () => number): () => Promise<boolean> {
    const { hosts, operatorWatches, othersLeave } = this.#options;
    let heardAt = clock();
    let askedAt = Number.NEGATIVE_INFINITY;
    return async () => {
      const now = clock();
      if (this.#drained || !hosts()) return false;
      if (operatorWatches()) heardAt = now;
      if (now - heardAt >= operatorAwayMs) return false;
      if (heardAt === now || now - askedAt < askPeersMs) return true;
      // Nobody plans, and where all ranks go at once, as with their deployment, nobody is left to be served.
      askedAt = now;
      return !(await othersLeave());
    };
  }

  async #cutRequests(): Promise<void> {
    const { engine, log } = this.#options;
    const { activeRequests } = engine.load();
    if (activeRequests > 0) log.info({ activeRequests }, "requests go on elsewhere");
    await engine.drain(true).catch((err: unknown) => log.warn({ err }, "the engine did not end its requests"));
  }
}
