// A disk in a replay: one transfer at a time, those that somebody waits for before those that were asked ahead.

interface Transfer {
  readonly unit: number;
  readonly endsAt: number;
}

export interface DiskOptions {
  /** Milliseconds of a unit. */
  readonly msOf: (unit: number) => number;
  /** Makes room for a unit; false where nothing may leave for it, or it is there. */
  readonly admit: (unit: number, ahead: boolean) => boolean;
  readonly arrived: (unit: number, ahead: boolean) => void;
}

/** Units that wait to be fetched ahead at most; the oldest is given up first. */
const aheadMost = 256;

export class Disk {
  readonly #options: DiskOptions;
  #ahead: number[] = [];
  #now = 0;
  #current: Transfer | undefined;

  constructor(options: DiskOptions) {
    this.#options = options;
  }

  get now(): number {
    return this.#now;
  }

  /** Replaces what waits to be fetched ahead, the likeliest first; a transfer that has begun goes on. */
  ahead(units: readonly number[]): void {
    this.#ahead = units.slice(0, aheadMost);
  }

  /** Time passes, in which units are fetched ahead. */
  pass(ms: number): void {
    const until = this.#now + ms;
    this.#startAhead();
    while (this.#current !== undefined && this.#current.endsAt <= until) {
      this.#end(true);
      this.#startAhead();
    }
    this.#now = until;
  }

  /** Fetches units now, behind the transfer that runs; returns the milliseconds until all are there. */
  demand(units: readonly number[]): number {
    const from = this.#now;
    for (const unit of units) {
      if (this.#current !== undefined) {
        const isIt = this.#current.unit === unit;
        this.#end(!isIt);
        if (isIt) continue;
      }
      if (!this.#options.admit(unit, false)) continue; // its transfer ended meanwhile
      this.#now += this.#options.msOf(unit);
      this.#options.arrived(unit, false);
    }
    return this.#now - from;
  }

  #startAhead(): void {
    while (this.#current === undefined) {
      const unit = this.#ahead.shift();
      if (unit === undefined) return;
      if (this.#options.admit(unit, true)) this.#current = { unit, endsAt: this.#now + this.#options.msOf(unit) };
    }
  }

  #end(ahead: boolean): void {
    const { unit, endsAt } = this.#current as Transfer;
    this.#now = Math.max(this.#now, endsAt);
    this.#current = undefined;
    this.#options.arrived(unit, ahead);
  }
}
