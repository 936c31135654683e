// A clock that tests turn by hand: timers run in order, and what they start comes to rest before the next.
import { setTimeout as sleep } from "node:timers/promises";
import type { Clock } from "../../operator/kube/workqueue.ts";

export class ManualClock implements Clock {
  #now = 1_800_000_000_000;
  #timers: { at: number; run: () => void }[] = [];
  now = () => this.#now;
  after = (ms: number, run: () => void) => {
    const timer = { at: this.#now + ms, run };
    this.#timers.push(timer);
    return () => {
      this.#timers = this.#timers.filter((one) => one !== timer);
    };
  };
  async advance(ms: number): Promise<void> {
    await sleep(0);
    const until = this.#now + ms;
    for (;;) {
      const next = this.#timers.filter((timer) => timer.at <= until).sort((a, b) => a.at - b.at)[0];
      if (!next) break;
      this.#timers = this.#timers.filter((timer) => timer !== next);
      this.#now = next.at;
      next.run();
      for (let i = 0; i < 200; i++) await Promise.resolve(); // let what the timer started come to rest
    }
    this.#now = until;
    await sleep(0);
  }
}
