// Planner rates as all ranks measured and exchanged them. They change time, not bits.
import { gatherAll } from "../../net/collectives/collectives.ts";
import { measureWay, type Way } from "../../net/collectives/probe.ts";
import type { Stamp, Transport } from "../../net/collectives/transport.ts";
import { type Measured, measuredFields, type Rates, ratesOf } from "../../placement/training/rates.ts";
import type { Meter } from "../trace/meter.ts";

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
