// The time that a thread polls before it sleeps; pool.ts asks for it. Waking a sleeper costs 25-50 us, a layer of decoding 200 us,
// so polling pays while cores are idle; where others want the cores (several workers on one machine) it would only take their time.
// The gauge watches the process's involuntary context switches: they rise when threads fight for cores.
const sampleMs = 250;
/** Involuntary switches per second and process above which nobody polls. */
const contendedPerSecond = 400;
/** About 150 us of polling: the attention part of a layer. */
const spinsIdle = 20_000;

export class SpinGauge {
  #spins = spinsIdle;
  #at = performance.now();
  #switches = process.resourceUsage().involuntaryContextSwitches;

  spins(): number {
    const now = performance.now();
    if (now - this.#at >= sampleMs) {
      const switches = process.resourceUsage().involuntaryContextSwitches;
      const perSecond = ((switches - this.#switches) * 1000) / (now - this.#at);
      this.#spins = perSecond > contendedPerSecond ? 0 : spinsIdle;
      this.#at = now;
      this.#switches = switches;
    }
    return this.#spins;
  }
}
