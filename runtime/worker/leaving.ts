// How a worker leaves: the operator drains it, or the kubelet ends its pod (DECISIONS.md 5).
import { setTimeout as sleep } from "node:timers/promises";
import type { Engine } from "../engine/engine.ts";
import type { Peers } from "../experts/peers.ts";
import type { Log } from "../observe/log.ts";

const lookMs = 50;
/** Milliseconds before the end of the grace period at which requests are cut, to continue elsewhere. */
const cutBeforeEndMs = 10_000;
/** Milliseconds before the end of the grace period. */
const closeBeforeEndMs = 3_000;
/** Milliseconds without a read after which keys and values of requests that were here are no longer asked for, and the most for all of them. */
const kvWanted = { quietMs: 500, mostMs: 15_000 };
/** Another operator leads within this time. */
const operatorAwayMs = 15_000;
const askPeersMs = 1_000;
const timerMsMax = 2 ** 31 - 1;
const realTime = { now: () => performance.now(), sleep: (ms: number) => sleep(ms) };

export interface LeavingOptions {
  readonly engine: Pick<Engine, "drain" | "load">;
  readonly peers: Pick<Peers, "self" | "membership">;
  readonly hosts: () => boolean;
  readonly operatorWatches: () => boolean;
  /** True when no rank remains that could ask this one. */
  readonly othersLeave: () => Promise<boolean>;
  /** When keys and values were read for another rank last; undefined where they stay. */
  readonly kvReadAt: () => number | undefined;
  readonly dead: () => string | undefined;
  readonly onChange: () => void;
  readonly log: Log;
  readonly time?: { now(): number; sleep(ms: number): Promise<unknown> };
}

export class Leaving {
  readonly #options: LeavingOptions;
  #drained = false;
  #ending = false;
  #cut: NodeJS.Timeout | undefined;
  /** When requests were open last, as far as this looked. */
  #busyAt = Number.NEGATIVE_INFINITY;

  constructor(options: LeavingOptions) {
    this.#options = options;
  }

  get draining(): boolean {
    return this.#drained;
  }
  get ending(): boolean {
    return this.#ending;
  }

  /** A worker that ends accepts a request that no other rank would. */
  refuses(): boolean {
    if (this.#drained || !this.#ending) return this.#drained;
    const { self, membership } = this.#options.peers;
    return membership.members.some(({ rank, state }) => rank !== self.rank && state === "active");
  }

  /** Running requests are cut after `finishMs`. */
  async drain(on: boolean, finishMs = 0): Promise<void> {
    const { engine, onChange } = this.#options;
    this.#drained = on;
    clearTimeout(this.#cut);
    this.#noteBusy(this.#now());
    if (on && finishMs > 0 && engine.load().activeRequests > 0)
      this.#cut = setTimeout(() => void this.#cutRequests(), Math.min(finishMs, timerMsMax)).unref();
    else {
      const cuts = on && this.#saysCut();
      await engine.drain(on);
      if (cuts) this.#busyAt = this.#now();
    }
    onChange();
  }

  /** Resolves when the process may or must end. */
  async handOver(graceMs: number): Promise<void> {
    const { engine, hosts, kvReadAt, dead, log, onChange, time = realTime } = this.#options;
    const startedAt = time.now();
    this.#ending = true;
    onChange();
    log.info({ graceMs, activeRequests: engine.load().activeRequests, experts: hosts() }, "told to end: handing over");
    const needed = this.#needed(time.now);
    // A request that has gone on elsewhere before may still be read.
    if (startedAt - (kvReadAt() ?? Number.NEGATIVE_INFINITY) < kvWanted.quietMs) this.#busyAt = startedAt;
    for (let cut = false; dead() === undefined; ) {
      const leftMs = graceMs - (time.now() - startedAt);
      if (leftMs <= closeBeforeEndMs) break;
      if (!cut && leftMs <= cutBeforeEndMs) {
        cut = true;
        await this.#cutRequests();
      }
      this.#noteBusy(time.now());
      if (engine.load().activeRequests === 0 && !(await needed()) && !this.#isReadFrom(time.now())) return;
      await time.sleep(lookMs);
    }
    log.warn({ activeRequests: engine.load().activeRequests, experts: hosts() }, "ends without having handed over all");
  }

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
      // Nobody plans; where all ranks leave together, nobody is left to serve.
      askedAt = now;
      return !(await othersLeave());
    };
  }

  #noteBusy(now: number): void {
    if (this.#options.engine.load().activeRequests > 0) this.#busyAt = now;
  }

  /** Others may still want the keys and values of requests that were cut, or that go on elsewhere behind their first token. */
  #isReadFrom(now: number): boolean {
    const readAt = this.#options.kvReadAt();
    if (readAt === undefined || now - this.#busyAt >= kvWanted.mostMs) return false;
    return now - Math.max(this.#busyAt, readAt) < kvWanted.quietMs;
  }

  #now(): number {
    return (this.#options.time ?? realTime).now();
  }

  /** False where no request is to be cut. */
  #saysCut(): boolean {
    const { engine, log } = this.#options;
    const { activeRequests } = engine.load();
    if (activeRequests > 0) log.info({ activeRequests }, "requests go on elsewhere");
    return activeRequests > 0;
  }

  async #cutRequests(): Promise<void> {
    const { engine, log } = this.#options;
    const cuts = this.#saysCut();
    await engine.drain(true).catch((err: unknown) => log.warn({ err }, "the engine did not end its requests"));
    if (cuts) this.#busyAt = this.#now(); // a step that runs ends first
  }
}
