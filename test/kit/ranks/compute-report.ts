// The report of a worker on its expert work: batches whose time is that of a cost model, counted by the production counter.
import type { ComputeWork } from "../../../crds/telemetry.ts";
import { LoadCounter } from "../../../runtime/engine/pass/load-counter.ts";

/** Microseconds at speed 1, as the cpu backend's f32 experts take them. */
const costs = { batch: 20, expert: 240, row: 25 };

export interface Batches {
  readonly batches: number;
  /** Rows of one batch on average; each has 0.5 to 1.5 times as many. */
  readonly rows: number;
  /** Experts that a batch can ask for; the more rows it has, the more of them it does. */
  readonly experts: number;
  readonly speed: number;
  /** Factor of this time: noise that all batches have in common. */
  readonly off: number;
}

export function computeWork({ batches, rows, experts, speed, off }: Batches, random: () => number): ComputeWork {
  const counter = new LoadCounter({ layers: 1, experts: 1 });
  for (let n = 0; n < batches; n++) {
    const count = Math.max(1, Math.round(rows * (0.5 + random())));
    const asked = Math.min(count, Math.max(1, Math.round(experts * (1 - Math.exp(-count / experts)))));
    const micros = ((costs.batch + asked * costs.expert + count * costs.row) / speed) * off;
    counter.computed("decode", asked, count, micros / 1e6);
  }
  return counter.take().decode.compute;
}
