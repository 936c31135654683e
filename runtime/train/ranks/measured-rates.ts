// Planner rates as all ranks measured and exchanged them. They change time, not bits.

import { performance } from "node:perf_hooks";
import { gatherAll } from "../../net/collectives/collectives.ts";
import type { Stamp, Transport } from "../../net/collectives/transport.ts";
import { type Measured, measuredFields, type Rates, ratesOf } from "../../placement/training/rates.ts";
import type { Clocked, NamedSpan } from "../trace/recorder.ts";

interface RankRatesOptions {
  readonly transport: Transport;
  readonly meter: Meter;
  readonly floats: number;
  readonly layers: number;
  readonly everySteps: number;
}

export class RankRates {
  readonly #options: RankRatesOptions;
  #way: Way | undefined;
  #made = 0;
  #steps = 0;

  constructor(options: RankRatesOptions) {
    this.#options = options;
  }

  /**
   * All ranks call it at the end of a step. It measures after 1, 2, 4, 8 ... steps of a world and before primaries may move; undefined
   * otherwise.
   */
  async after(step: number, stamp: Stamp): Promise<Rates | undefined> {
    const { transport, floats, layers, meter, everySteps } = this.#options;
    this.#made++;
    this.#steps++;
    if (!Number.isInteger(Math.log2(this.#made)) && step % everySteps !== 0) return undefined;
    this.#way ??= await measureWay(transport, stamp, floats);
    const { expertMs, rows, blockMs } = meter.take();
    const own: Measured = {
      row: rows > 0 ? expertMs / rows / 1000 : 0,
      dense: blockMs / 1000 / Math.max(1, layers) / this.#steps,
      expertReplica: this.#way.seconds,
      busy: this.#way.busy,
    };
    this.#steps = 0;
    const part = Float64Array.from(measuredFields, (field) => own[field]);
    const named = { what: "rates", layer: -1, lengthFrom: () => measuredFields.length };
    const all = await gatherAll(transport, stamp, named, part);
    return ratesOf(all.map((of) => Object.fromEntries(measuredFields.map((field, i) => [field, of[i]])) as unknown as Measured));
  }
}

/** Since the last call, in milliseconds. */
export interface Metered {
  readonly expertMs: number;
  /** Forward only. */
  readonly rows: number;
  readonly blockMs: number;
}

/** Measures a rank's computing for planners: rows at experts, and the other work of layers. */
export class Meter implements Clocked {
  readonly #now: () => number;
  #expertMs = 0;
  #rows = 0;
  #blockMs = 0;
  #counts = true;

  constructor(now: () => number) {
    this.#now = now;
  }

  /** Pauses the meter: rows of a pure forward pass would skew it. */
  async beside<T>(run: () => Promise<T>): Promise<T> {
    this.#counts = false;
    try {
      return await run();
    } finally {
      this.#counts = true;
    }
  }

  async around<T>({ name, rows = 0 }: NamedSpan, run: () => Promise<T>): Promise<T> {
    if (!this.#counts) return run();
    const from = this.#now();
    const done = await run();
    const ms = this.#now() - from;
    if (name.startsWith("expert ")) this.#expertMs += ms;
    if (name === "expert forward") this.#rows += rows;
    if (name === "block forward") this.#blockMs += ms;
    return done;
  }

  take(): Metered {
    const metered = { expertMs: this.#expertMs, rows: this.#rows, blockMs: this.#blockMs };
    [this.#expertMs, this.#rows, this.#blockMs] = [0, 0, 0];
    return metered;
  }
}

/** 4 MiB. */
const floatsMax = 2 ** 20;
/** The first round of a connection is slow. */
const rounds = 2;

export interface Way {
  readonly seconds: number;
  /** The busy part of this thread. */
  readonly busy: number;
}

/** Undefined without other ranks. */
export async function measureWay(transport: Transport, stamp: Stamp, floats: number): Promise<Way> {
  const { rank, ranks } = transport;
  let way: Way = { seconds: 0, busy: 0 };
  if (ranks === 1) return way;
  const part = new Float32Array(Math.min(floatsMax, Math.max(1, floats)));
  const [next, before] = [(rank + 1) % ranks, (rank + ranks - 1) % ranks];
  // Otherwise a late rank would count as transfer time.
  await gatherAll(transport, stamp, { what: "way begins", layer: -1, lengthFrom: () => 0 }, new Int32Array());
  for (let round = 0; round < rounds; round++) {
    const name = { what: "way", layer: -1, chunk: 0, piece: round };
    const [begun, busy] = [performance.now(), performance.eventLoopUtilization()];
    await Promise.all([
      transport.send(next, stamp, name, part),
      transport.receive(before, stamp, { what: "way", layer: -1, chunk: 0, piece: round, length: part.length }),
    ]);
    const scale = floats / part.length / 1000;
    way = { seconds: scale * (performance.now() - begun), busy: scale * performance.eventLoopUtilization(busy).active };
  }
  return way;
}
