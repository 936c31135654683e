// What the pods of one deployment may make the operator decode, as an honest deployment of its ranks and description needs: DECISIONS.md 10.
import { AppError } from "../../../crds/common.ts";
import { planBounds } from "../../../crds/plan.ts";
import { loadBytes, loadSampleMs, phases } from "../../../crds/telemetry.ts";
import { valuesPerBigInt } from "../../../runtime/net/message-bounds.ts";
import type { ExpertGrid } from "../../../runtime/placement/grid.ts";

/** In numbers to decode, of 10 to 40 ns: what a message costs beside those in it, and the bytes of a load message for one. */
const valuesPerMessage = 2_000;
const bytesPerValue = 4;
const costOf = (bytes: number, values: number): number => valuesPerMessage + values + bytes / bytesPerValue;

/** A pod's messages a second; it may describe itself anew every so many seconds, and take part in a plan. */
const messagesPerSecond = 8;
const describeSeconds = 20;
const planMessagesPerLayer = 4;
const valuesPerCell = 2 * valuesPerBigInt + 8;
/** Over the load messages that ranks send. */
const loadSlack = 1.25;
const burstSeconds = 4;
/** It is told of again after so long within its bounds. */
const quietMs = 60_000;

interface Needs {
  readonly pods: number;
  /** Undefined until a pod has described itself: the largest of all. */
  readonly grid: Pick<ExpertGrid, "layers" | "experts"> | undefined;
  /** Of load, as the spec has it. */
  readonly windowMs: number;
}

interface Rate {
  readonly perSecond: number;
  /** What may come at once. */
  readonly burst: number;
}

const largest = { layers: planBounds.layers, experts: planBounds.cells / planBounds.layers };

function podRate({ grid = largest, windowMs }: Omit<Needs, "pods">): Rate {
  const cells = grid.layers * grid.experts;
  const description = valuesPerCell * cells;
  const loads = (loadSlack * phases.length * 1000) / loadSampleMs(windowMs);
  const perSecond = messagesPerSecond * valuesPerMessage + description / describeSeconds + loads * costOf(loadBytes(cells), 0);
  return { perSecond, burst: description + planMessagesPerLayer * grid.layers * valuesPerMessage + burstSeconds * perSecond };
}

class Bucket {
  #left: number;
  #at: number;

  constructor(left: number, now: number) {
    this.#left = left;
    this.#at = now;
  }

  /** Negative where more was taken than there was. */
  left({ perSecond, burst }: Rate, now: number): number {
    this.#left = Math.min(burst, this.#left + (perSecond * Math.max(0, now - this.#at)) / 1000);
    this.#at = now;
    return this.#left;
  }

  take(cost: number): void {
    this.#left -= cost;
  }
}

export type OverQuota = "delayed" | "dropped";

interface QuotaPorts {
  readonly now: () => number;
  /** `first`: after a time within its bounds. */
  readonly onOver: (what: OverQuota, first: boolean) => void;
}

/** Each pod has its share; what others leave of theirs it may take too. */
export class Quota {
  readonly #ports: QuotaPorts;
  readonly #pool: Bucket;
  #pods = 1;
  #perPod = podRate({ grid: undefined, windowMs: 0 });
  #overAt = Number.NEGATIVE_INFINITY;

  constructor(ports: QuotaPorts) {
    this.#ports = ports;
    this.#pool = new Bucket(Number.POSITIVE_INFINITY, ports.now());
  }

  follow(needs: Needs): void {
    this.#pods = Math.max(1, needs.pods);
    this.#perPod = podRate(needs);
  }

  /** True when something came above it within `ms`. */
  wasOver(ms: number): boolean {
    return this.#ports.now() - this.#overAt <= ms;
  }

  /** Takes a message that no pod's connection brought; false when nothing is left. */
  take(bytes: number): boolean {
    const may = this.#poolLeft() >= 0;
    if (may) this.#pool.take(costOf(bytes, 0));
    else this.#over("dropped");
    return may;
  }

  share(): Share {
    const { now } = this.#ports;
    const own = new Bucket(0, now());
    const left = () => own.left(this.#perPod, now());
    return {
      mayRead: () => left() >= 0 || this.#poolLeft() >= 0,
      admit: (bytes, values) => {
        if (left() < -this.#perPod.burst && this.#poolLeft() < 0) throw this.#refusal();
        own.take(costOf(bytes, values));
        this.#pool.take(costOf(bytes, values));
      },
      delayed: () => this.#over("delayed"),
    };
  }

  #poolLeft(): number {
    const { perSecond, burst } = this.#perPod;
    return this.#pool.left({ perSecond: perSecond * this.#pods, burst: burst * this.#pods }, this.#ports.now());
  }

  #refusal(): AppError {
    this.#over("dropped");
    const message = `above the quota of ${Math.round(this.#perPod.perSecond)} values a second for each of ${this.#pods} pods`;
    return new AppError(message, { code: "InvalidRequest", operation: "reading a pod's answers" });
  }

  #over(what: OverQuota): void {
    const first = !this.wasOver(quietMs);
    this.#overAt = this.#ports.now();
    this.#ports.onOver(what, first);
  }
}

/** What one pod may send. */
export interface Share {
  /** False while it has to wait. */
  mayRead(): boolean;
  /** Counts an answer before it is decoded. Throws where the pod is above its share by more than what waits for it to be read. */
  admit(bytes: number, values: number): void;
  delayed(): void;
}
