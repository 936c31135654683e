// Forecasts the load of the next window: several EWMAs run side by side and the one with the least recent error is used. A
// CUSUM on the change between windows separates a shift from noise.
import { expectedWindows } from "./lifetime.ts";

const arms = [0.05, 0.1, 0.2, 0.35, 0.6, 1] as const;
const errorDiscount = 0.8;
const switchMargin = 0.9;
/** The last-window EWMA follows noise too, so another one starts. */
const startArm = 3;
const lastArm = arms.length - 1;
/**
 * A change above this multiple of the noise floor is real: tokens of one request are alike, so chance reaches twice the
 * floor.
 */
const plainFactor = 3;
const noiseFactor = 2;
const alarmAt = 0.1;
/** The discount per window of past changes; about the last 100 windows count. */
const changesDiscount = 0.99;

export interface Forecast {
  /** Expected rows per window, scaled to each layer's total in the last window that had any, [layers * experts]. */
  readonly load: Float64Array;
  readonly arm: number;
  /** Mean total variation between recent windows and their forecasts; 0 until the second window. */
  readonly error: number;
  readonly change: number;
  readonly noiseFloor: number;
  readonly alarm: boolean;
  readonly windows: number;
  readonly weight: number;
  /** The part of the load, 0 to 1, by which recent windows missed the forecast beyond sampling noise. */
  readonly unrest: number;
  readonly lifetime: number;
}

interface Seen {
  readonly share: Float64Array;
  readonly floor: number;
}

export class Forecaster {
  readonly layers: number;
  readonly experts: number;
  readonly #means: Float64Array[];
  readonly #errors: number[];
  readonly #spread: Float64Array;
  readonly #effective: number[];
  readonly #volume: Float64Array;
  #arm = startArm;
  readonly #recent = new ChangeWatch();
  readonly #wider = new ChangeWatch();
  #missed = 0;
  #missedWindows = 0;
  #watched = 0;
  #changes = 0;
  #windows = 0;
  #last: Seen | undefined;
  /** The window before the last; unset after an alarm. */
  #former: Seen | undefined;

  constructor(layers: number, experts: number) {
    this.layers = layers;
    this.experts = experts;
    this.#means = arms.map(() => new Float64Array(layers * experts));
    this.#errors = arms.map(() => 0);
    this.#spread = new Float64Array(layers * experts);
    this.#effective = arms.map(() => 0);
    this.#volume = new Float64Array(layers);
  }

  /** Takes one full window of selections, [layers * experts]. A layer without selections keeps its old forecast. */
  observe(counts: ArrayLike<number>): Forecast {
    const share = this.#normalise(counts);
    const totals = layerTotals(counts, this.layers, this.experts);
    const floor = noiseFloor(share, totals, this.layers, this.experts);
    const change = this.#last ? variation(share, this.#last.share, totals, this.experts) : 0;
    const alarm = this.#detect({ share, floor }, totals, change);
    if (this.#windows > 0) {
      this.#watched = changesDiscount * this.#watched + 1;
      this.#changes = changesDiscount * this.#changes + (alarm ? 1 : 0);
    }
    if (this.#windows === 1 && change > plainFactor * floor) this.#arm = lastArm;
    // Every EWMA missed a jump, so it says nothing about which one is best.
    if (this.#windows > 0 && !alarm) this.#learn(share, totals, floor);
    this.#update(share, totals, alarm);
    this.#former = alarm ? undefined : this.#last;
    this.#last = { share, floor };
    this.#windows++;
    const unrest = this.#missedWindows > 0 ? this.#missed / this.#missedWindows : 0;
    const lasting = arms[this.#arm] ?? 1;
    return {
      load: this.#scaled(totals),
      arm: lasting,
      error: this.#missedWindows > 0 ? (this.#errors[this.#arm] ?? 0) / this.#missedWindows : 0,
      change,
      noiseFloor: floor,
      alarm,
      windows: this.#windows,
      weight: this.#effective[this.#arm] ?? 1,
      unrest,
      lifetime: expectedWindows({ watched: this.#watched, changes: this.#changes, unrest, lasting }),
    };
  }

  /** The noise of each layer's rank load as a part of the mean: how much of max/mean may be chance. */
  layerNoise(perWindow: ArrayLike<number>, ranks: number): Float64Array {
    const weight = Math.max(1, this.#effective[this.#arm] ?? 1);
    return Float64Array.from({ length: this.layers }, (_, l) => {
      const n = (perWindow[l] as number) * weight;
      const sampling = n > 0 ? Math.sqrt(Math.max(0, ranks - 1) / n) : 0;
      let variance = 0;
      for (let e = 0; e < this.experts; e++) variance += this.#spread[l * this.experts + e] as number;
      const observed = this.#windows > 2 ? Math.sqrt((variance * Math.max(1, ranks)) / weight) : 0;
      return Math.max(sampling, Math.min(observed, 1));
    });
  }

  #normalise(counts: ArrayLike<number>): Float64Array {
    const share = new Float64Array(counts.length);
    for (let l = 0; l < this.layers; l++) {
      let total = 0;
      for (let e = 0; e < this.experts; e++) total += counts[l * this.experts + e] as number;
      for (let e = 0; e < this.experts; e++) {
        const i = l * this.experts + e;
        share[i] = total > 0 ? (counts[i] as number) / total : (this.#last?.share[i] ?? 1 / this.experts);
      }
    }
    return share;
  }

  #learn(share: Float64Array, totals: Float64Array, floor: number): void {
    // The floor is for two windows; a forecast that averages `weight` windows is less noisy than one.
    const noise = floor * Math.sqrt((1 + 1 / Math.max(1, this.#effective[this.#arm] ?? 1)) / 2);
    const miss = variation(share, this.#means[this.#arm] as Float64Array, totals, this.experts);
    this.#missed = errorDiscount * this.#missed + Math.max(0, miss - noise);
    this.#missedWindows = errorDiscount * this.#missedWindows + 1;
    this.#means.forEach((mean, a) => {
      this.#errors[a] = errorDiscount * (this.#errors[a] as number) + variation(share, mean, totals, this.experts);
    });
    let best = 0;
    for (let a = 1; a < arms.length; a++) if ((this.#errors[a] as number) < (this.#errors[best] as number)) best = a;
    if ((this.#errors[best] as number) < switchMargin * (this.#errors[this.#arm] as number)) this.#arm = best;
    const mean = this.#means[this.#arm] as Float64Array;
    for (let i = 0; i < share.length; i++) {
      const off = (share[i] as number) - (mean[i] as number);
      this.#spread[i] = this.#windows === 1 ? off * off : 0.8 * (this.#spread[i] as number) + 0.2 * off * off;
    }
  }

  /** A change in the middle of a window shows in full only between windows two apart. */
  #detect({ share, floor }: Seen, totals: Float64Array, change: number): boolean {
    if (!this.#last) return false;
    // The floor for two windows is that of the one with fewer selections.
    const sudden = this.#recent.sees(change, Math.max(floor, this.#last.floor));
    const former = this.#former;
    const late =
      former !== undefined && this.#wider.sees(variation(share, former.share, totals, this.experts), Math.max(floor, former.floor));
    if (!sudden && !late) return false;
    this.#recent.rest();
    this.#wider.rest();
    return true;
  }

  #update(share: Float64Array, totals: Float64Array, alarm: boolean): void {
    this.#means.forEach((mean, a) => {
      const alpha = arms[a] as number;
      const fresh = this.#windows === 0 || alarm;
      // A young mean weighs its windows equally, so that slow EWMAs are usable from the start.
      const seen = fresh ? 0 : (this.#effective[a] as number);
      const gain = fresh ? 1 : Math.max(alpha, 1 / (seen + 1));
      this.#effective[a] = fresh ? 1 : Math.min((this.#effective[a] as number) + 1, (2 - alpha) / alpha);
      for (let l = 0; l < this.layers; l++) {
        if ((totals[l] as number) === 0 && this.#windows > 0) continue;
        for (let e = 0; e < this.experts; e++) {
          const i = l * this.experts + e;
          mean[i] = (mean[i] as number) + gain * ((share[i] as number) - (mean[i] as number));
        }
      }
    });
  }

  #scaled(totals: Float64Array): Float64Array {
    const mean = this.#means[this.#arm] as Float64Array;
    totals.forEach((total, l) => {
      if (total > 0) this.#volume[l] = total;
    });
    return mean.map((share, i) => share * (this.#volume[Math.floor(i / this.experts)] as number));
  }
}

class ChangeWatch {
  #cusum = 0;
  #usual: number | undefined;

  sees(change: number, floor: number): boolean {
    const usual = Math.max(floor, this.#usual ?? 0);
    this.#usual =
      this.#usual === undefined ? Math.max(floor, change) : this.#usual + 0.2 * (Math.min(change, 2 * usual + floor) - this.#usual);
    this.#cusum = Math.max(0, this.#cusum + change - noiseFactor * usual);
    return this.#cusum >= alarmAt;
  }

  rest(): void {
    this.#cusum = 0;
  }
}

export function layerTotals(counts: ArrayLike<number>, layers: number, experts: number): Float64Array {
  const totals = new Float64Array(layers);
  for (let l = 0; l < layers; l++) {
    let total = 0;
    for (let e = 0; e < experts; e++) total += counts[l * experts + e] as number;
    totals[l] = total;
  }
  return totals;
}

function variation(a: ArrayLike<number>, b: ArrayLike<number>, totals: Float64Array, experts: number): number {
  let all = 0;
  let counted = 0;
  for (let l = 0; l < totals.length; l++) {
    if ((totals[l] as number) === 0) continue;
    let distance = 0;
    for (let e = 0; e < experts; e++) distance += Math.abs((a[l * experts + e] as number) - (b[l * experts + e] as number));
    all += distance / 2;
    counted++;
  }
  return counted > 0 ? all / counted : 0;
}

/** The expected total variation between two draws of n selections from one distribution: sum sqrt(p / (pi n)). */
function noiseFloor(share: Float64Array, totals: Float64Array, layers: number, experts: number): number {
  let all = 0;
  let counted = 0;
  for (let l = 0; l < layers; l++) {
    const n = totals[l] as number;
    if (n === 0) continue;
    let distance = 0;
    for (let e = 0; e < experts; e++) distance += Math.sqrt((share[l * experts + e] as number) / (Math.PI * n));
    all += distance;
    counted++;
  }
  return counted > 0 ? all / counted : 0;
}
