// Keys and values that move between ranks, in virtual time: streams with shared beginnings through a gateway of production, at ranks that
// are drained, told to end, killed at any step of a transfer, slow, cut off, unlike, and short of memory, with chunks that arrive damaged.
import { gatewayRank } from "../../crds/common.ts";
import { type Random, seeded } from "../../operator/planner/random.ts";
import { generate } from "../../runtime/gateway/routing/failover.ts";
import { failoverLimits } from "../../runtime/gateway/routing/patience.ts";
import { WorkerPool } from "../../runtime/gateway/routing/worker-pool.ts";
import { tracingOff } from "../../runtime/observe/trace.ts";
import { asOwner, VirtualClock } from "./clock.ts";
import type { FaultRun } from "./faults.ts";
import { kvPool, kvVocab, textAfter } from "./kv-engine.ts";
import { KvRank } from "./kv-rank.ts";
import { Troubles } from "./troubles.ts";
import { SimWire } from "./wire.ts";
import { deploymentUid, ref, tls } from "./worker.ts";

const ranks = 3;
const streams = 12;
/** Streams begin, and faults strike, within these. */
const [beginMs, strikeMs] = [10_000, 14_000];
const calmMs = 26_000;
const settleMs = 8_000;
/** A run takes a minute; one that takes so long hangs. */
const runMsMost = 400_000;
const strikesMost = 20;
/** Points of transfers ahead, at one of which a fault strikes. */
const pointsAhead = 16;
const graceMs = 20_000;
const classes = ["exact: simulated", "exact: simulated, another KV type"] as const;

interface Ask {
  readonly prompt: readonly number[];
  readonly cacheSalt: string;
  readonly tokens: number;
}

class KvSim {
  readonly clock: VirtualClock;
  readonly faults: string[] = [];
  readonly log: string[] = [];
  readonly counts = { tokens: 0, failovers: 0, fetches: 0 };
  readonly #random: Random;
  readonly #troubles: Troubles;
  readonly #ranks: readonly KvRank[];
  readonly #wire: SimWire;
  readonly #beginnings: readonly (readonly number[])[];
  /** Ranks that a fault has struck, until they are well again. */
  readonly #struck = new Set<KvRank>();
  #pool: WorkerPool | undefined;
  #version = 0;
  /** Streams that have not ended, those that have not begun included. */
  #open = streams;
  #pointsLeft = Number.POSITIVE_INFINITY;
  #asked = 0;
  #done = false;

  constructor(seed: number) {
    const dice = seeded(seed);
    this.clock = new VirtualClock(0, dice.next);
    this.#random = seeded(seed * 7919);
    this.#troubles = new Troubles(dice.next);
    this.#wire = new SimWire(this.clock, { ...this.#troubles.ofWire(), arriving: (message) => this.#troubles.damaged(message) });
    const watch = {
      at: (rank: KvRank, point: string) => this.#at(rank, point),
      fault: (text: string) => this.#fault(text),
      fetched: (result: string) => {
        this.counts.fetches += 1;
        this.#say(`fetched ${result}`);
      },
    };
    const around = { clock: this.clock, wire: this.#wire, watch };
    // In one of three runs a rank is unlike the others.
    this.#ranks = Array.from({ length: ranks }, (_, rank) => {
      const numerics = seed % 3 === 0 && rank === 0 ? classes[1] : classes[0];
      return new KvRank(around, rank, { numerics, tokenMs: 0.5 + 3 * this.#random.next() });
    });
    this.#beginnings = Array.from({ length: 3 }, () => this.#tokens(64 + this.#random.below(220)));
  }

  async run(): Promise<void> {
    this.#later(0, () => this.#begin());
    await this.clock.run(runMsMost, () => this.#done || this.faults.length > 0);
    if (!this.#done && this.faults.length === 0) this.#fault(`${this.#open} streams do not end`);
  }

  #say(text: string): void {
    this.log.push(`${Math.round(this.clock.now())}:${text}`);
  }
  #fault(text: string): void {
    this.faults.push(`${Math.round(this.clock.now())}: ${text}`);
  }
  #later(ms: number, run: () => void): void {
    asOwner(undefined, () => this.clock.after(ms, run));
  }
  #tokens(count: number): number[] {
    return Array.from({ length: count }, () => this.#random.below(kvVocab));
  }

  #begin(): void {
    for (const rank of this.#ranks) rank.boot();
    const host = { owner: { dead: false }, id: gatewayRank, san: `DNS:gateway.${ref.name}.${ref.namespace}.enodia`, stalled: () => false };
    const identity = { deploymentUid, rank: gatewayRank, podUid: "gateway", bootId: "gateway" };
    const { namespace, name: deployment } = ref;
    const network = this.#wire.network(host, "gateway:0");
    this.#pool = asOwner(
      host.owner,
      () => new WorkerPool({ identity, namespace, deployment, tls, network, tracing: tracingOff, routing: "PrefixAware" }),
    );
    this.#tell();
    for (let i = 0; i < streams; i++) this.#later(500 + this.#random.next() * beginMs, () => void this.#stream(this.#newAsk(), 2));
    for (let left = 6 + this.#random.below(strikesMost); left > 0; left--) {
      this.#later(1_000 + this.#random.next() * strikeMs, () => {
        if (this.#random.next() < 0.5) this.#strike(this.#anyRank());
        else this.#pointsLeft = Math.min(this.#pointsLeft, 1 + this.#random.below(pointsAhead));
      });
    }
    this.#later(calmMs, () => {
      this.#troubles.calm();
      this.#pointsLeft = Number.POSITIVE_INFINITY;
    });
  }

  // Streams.

  #newAsk(): Ask {
    const shared = this.#beginnings[this.#random.below(this.#beginnings.length)] as readonly number[];
    const prompt = [...shared, ...this.#tokens(1 + this.#random.below(160))];
    return { prompt, cacheSalt: ["", "", "", "a"][this.#random.below(4)] as string, tokens: 30 + this.#random.below(120) };
  }

  /** `turns`: that may follow, each with all before it. */
  async #stream({ prompt, cacheSalt, tokens }: Ask, turns: number): Promise<void> {
    const name = `stream ${this.#asked++}`;
    const got: number[] = [];
    try {
      for await (const event of this.#generated(name, { prompt, cacheSalt, tokens })) if (event.type === "token") got.push(event.id);
      const want = textAfter(prompt, cacheSalt, tokens);
      if (got.join() !== want.join()) this.#fault(`the text of ${name} is another one from ${got.findIndex((id, i) => id !== want[i])} on`);
    } catch (caught) {
      this.#fault(`${name} failed: ${caught}`);
    }
    this.counts.tokens += got.length;
    const next = { prompt: [...prompt, ...got, ...this.#tokens(20)], cacheSalt, tokens: 20 };
    const follows = turns > 0 && this.#random.next() < 0.5 && next.prompt.length + next.tokens < kvPool.context;
    if (follows) return this.#stream(next, turns - 1);
    this.#open -= 1;
    if (this.#open === 0) this.#later(Math.max(0, calmMs - this.clock.now()) + settleMs, () => this.#end());
  }

  #generated(requestId: string, { prompt, cacheSalt, tokens: maxTokens }: Ask) {
    const sampling = { temperature: 0, topP: 1, topK: 0, seed: 1n, logprobs: false };
    const rest = { eos: [], traceparent: "", signal: new AbortController().signal, deadlineUnixMs: this.clock.now() + runMsMost };
    const onFailover = (reason: string, rank: number): void => {
      this.counts.failovers += 1;
      this.#say(`${requestId} left rank ${rank}, ${reason}`);
    };
    const generation = { requestId, prompt, cacheSalt, maxTokens, sampling, ...rest };
    return generate(generation, this.#pool as WorkerPool, failoverLimits, { onFailover });
  }

  #end(): void {
    for (const rank of this.#ranks) for (const held of rank.held()) this.#fault(held);
    this.#done = true;
  }

  // Ranks.

  #anyRank(): KvRank {
    return this.#ranks[this.#random.below(ranks)] as KvRank;
  }

  /** Each hears of it in its time. */
  #tell(): void {
    const membership = { version: ++this.#version, members: this.#ranks.map(({ member }) => member) };
    this.#later(this.#random.next() * 300, () => void this.#pool?.apply(membership));
    for (const rank of this.#ranks) this.#later(this.#random.next() * 300, () => rank.apply(membership));
  }

  #at(rank: KvRank, point: string): void {
    this.#pointsLeft -= 1;
    if (this.#pointsLeft > 0) return;
    this.#pointsLeft = Number.POSITIVE_INFINITY;
    const other = this.#ranks[(rank.rank + 1 + this.#random.below(ranks - 1)) % ranks] as KvRank;
    const struck = this.#random.next() < 0.5 ? rank : other;
    this.#later(this.#random.next() < 0.5 ? 0 : this.#random.next() * 30, () => this.#strike(struck, `as rank ${rank.rank} ${point}`));
  }

  // Faults.

  #strike(rank: KvRank, when = ""): void {
    const strikes = Object.entries(this.#strikes);
    const [name, run] = strikes[this.#random.below(strikes.length)] as (typeof strikes)[number];
    this.#say(`${name} ${rank.rank} ${when}`);
    run(rank);
  }

  readonly #strikes: Readonly<Record<string, (rank: KvRank) => void>> = {
    kill: (rank: KvRank) => this.#alone(rank, () => this.#kill(rank)),
    drain: (rank: KvRank) => this.#alone(rank, () => void this.#drain(rank)),
    "drain too": (rank: KvRank) => this.#alone(rank, () => void this.#drain(rank)),
    "tell to end": (rank: KvRank) => this.#alone(rank, () => void this.#leave(rank)),
    stall: (rank: KvRank) =>
      this.#alone(rank, () => {
        rank.stalled = true;
        this.#later(300 + this.#random.below(6_000), () => {
          rank.stalled = false;
          this.#struck.delete(rank);
        });
      }),
    cut: (rank: KvRank) => {
      const other = (rank.rank + 1) % ranks;
      const pair = `${Math.min(rank.rank, other)}:${Math.max(rank.rank, other)}`;
      this.#troubles.cuts.add(pair);
      this.#later(300 + this.#random.below(6_000), () => this.#troubles.cuts.delete(pair));
    },
    corrupt: () => {
      this.#troubles.corruptNext += 1 + this.#random.below(4);
    },
    slow: ({ rank }: KvRank) => {
      this.#troubles.slow.set(rank, this.#random.next() < 0.5 ? 200 : 20);
      this.#later(1_000 + this.#random.below(12_000), () => this.#troubles.slow.delete(rank));
    },
    crowd: () => {
      for (let i = 0; i < 3; i++) {
        this.#open += 1;
        void this.#stream({ prompt: this.#tokens(300 + this.#random.below(250)), cacheSalt: "", tokens: 8 }, 0);
      }
    },
  };

  /** Strikes where another rank is left that is well. */
  #alone(rank: KvRank, strike: () => void): void {
    const well = this.#ranks.filter((each) => !this.#struck.has(each) && each.process !== undefined);
    if (!well.includes(rank) || well.length < 2) return;
    this.#struck.add(rank);
    strike();
  }

  #kill(rank: KvRank): void {
    rank.kill();
    if (this.#random.next() < 0.7) this.#later(this.#random.next() * 3_000, () => this.#tell());
    this.#later(3_000 + this.#random.next() * 6_000, () => {
      // It comes back with another template.
      if (this.#random.next() < 0.2) rank.numerics = classes[this.#random.below(2)] as string;
      rank.boot();
      this.#tell();
      this.#struck.delete(rank);
    });
  }

  /** Its streams go on elsewhere; it stays, or ends some time after. */
  async #drain(rank: KvRank): Promise<void> {
    rank.state = "draining";
    this.#tell();
    await this.#within(rank, 3_000, "drain", ({ leaving }) => leaving.drain(true));
    if (this.#random.next() < 0.5) return void this.#leave(rank);
    this.#later(500 + this.#random.below(5_000), () => {
      void this.#within(rank, 3_000, "end of its drain", ({ leaving }) => leaving.drain(false));
      if (rank.process !== undefined) rank.state = "active";
      this.#tell();
      this.#struck.delete(rank);
    });
  }

  async #leave(rank: KvRank): Promise<void> {
    await this.#within(rank, graceMs, "leave", ({ leaving }) => leaving.handOver(graceMs));
    this.#later(0, () => this.#kill(rank));
  }

  async #within(rank: KvRank, ms: number, what: string, work: (plane: NonNullable<KvRank["process"]>["plane"]) => Promise<void>) {
    const { process } = rank;
    if (process === undefined) return;
    const startedAt = this.clock.now();
    await asOwner(process.owner, () => work(process.plane));
    const took = this.clock.now() - startedAt;
    if (took > ms) this.#fault(`the ${what} of rank ${rank.rank} took ${took} ms`);
  }
}

export async function kvRun(seed: number): Promise<FaultRun> {
  const sim = new KvSim(seed);
  const crash = (caught: unknown): void =>
    void sim.faults.push(`a process would have crashed: ${caught instanceof Error ? caught.stack : caught}`);
  process.on("unhandledRejection", crash);
  try {
    await sim.run();
  } finally {
    process.off("unhandledRejection", crash);
  }
  const { faults, log, counts } = sim;
  return { seed, faults, log, epochs: counts.fetches, steps: { done: counts.tokens, failed: counts.failovers } };
}
