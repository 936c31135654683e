// What the pods of one deployment may make the operator decode, as an honest deployment of its ranks and description needs: DECISIONS.md 10.
import { AppError } from "../../../crds/common.ts";
import { planBounds } from "../../../crds/plan.ts";
import { parseDuration } from "../../../crds/quantity.ts";
import { loadBytes, loadSampleMs, phases } from "../../../crds/telemetry.ts";
import { valuesPerBigInt } from "../../../runtime/net/message-bounds.ts";
import type { ExpertGrid } from "../../../runtime/placement/grid.ts";
import type { World } from "../../deployment/ports.ts";
import type { LinkTarget, Share } from "../ports.ts";

/** The unit is a number to decode, 10 to 40 ns: a message costs so many beside those in it, and a load message one for so many bytes. */
const valuesPerMessage = 2_000;
const bytesPerValue = 4;
const costOf = (bytes: number, values: number): number => valuesPerMessage + values + bytes / bytesPerValue;

/** A pod's messages a second; it may describe itself anew every so many seconds, and take part in a plan. */
const messagesPerSecond = 8;
const describeSeconds = 20;
const planMessagesPerLayer = 4;
const valuesPerCell = 2 * valuesPerBigInt + 8;
/** While a plan is carried out: statuses that name all experts, and what they cost for each expert and layer. */
const hostedPerSecond = 2;
const [hostedPerCell, hostedPerLayer] = [1.5, 13];
/** Over the load messages that ranks send. */
const loadSlack = 1.25;
const burstSeconds = 4;
/** It is told of again after so long within its bounds. */
const quietMs = 60_000;

type Kind = LinkTarget["kind"];

interface Needs {
  readonly workers: number;
  readonly gateways: number;
  /** Undefined until a rank has described itself, which may be of the largest model. */
  readonly grid: Pick<ExpertGrid, "layers" | "experts"> | undefined;
  /** Between load messages of a rank, the least. */
  readonly loadEveryMs: number;
}

/** A rank of an older template keeps its window until it is replaced. */
export function needsOf({ workers, gateways, spec }: Pick<World, "workers" | "gateways" | "spec">, grid: Needs["grid"]): Needs {
  const wanted = loadSampleMs(parseDuration(spec.rebalancing.trigger.window, "spec.rebalancing.trigger.window"));
  const least = Math.min(wanted, ...workers.map(({ loadEveryMs = wanted }) => loadEveryMs));
  return { workers: workers.length, gateways: gateways.length, grid, loadEveryMs: least };
}

interface Rate {
  readonly perSecond: number;
  /** What may come at once. */
  readonly burst: number;
}

/** The pool of a deployment, whatever its pods say: a third of the thread, and at once what 256 ranks of 64 x 256 experts describe. */
const most: Rate = { perSecond: 8_000_000, burst: 96_000_000 };

function rateOf(kind: Kind, { grid, loadEveryMs }: Needs): Rate {
  const { layers, experts } = (kind === "worker" && grid) || { layers: 0, experts: 0 };
  const cells = layers * experts;
  const description = kind === "worker" ? valuesPerCell * (cells || planBounds.cells) : 0;
  const hosted = hostedPerSecond * (hostedPerCell * cells + hostedPerLayer * layers);
  const loads = cells > 0 ? (loadSlack * phases.length * 1000 * costOf(loadBytes(cells), 0)) / loadEveryMs : 0;
  const perSecond = messagesPerSecond * valuesPerMessage + description / describeSeconds + hosted + loads;
  return { perSecond, burst: description + planMessagesPerLayer * layers * valuesPerMessage + burstSeconds * perSecond };
}

function ratesOf(needs: Needs): Record<Kind | "pool", Rate> {
  const [worker, gateway] = [rateOf("worker", needs), rateOf("gateway", needs)];
  const all = (of: keyof Rate): number => Math.min(most[of], needs.workers * worker[of] + needs.gateways * gateway[of]);
  return { worker, gateway, pool: { perSecond: all("perSecond"), burst: all("burst") } };
}

class Bucket {
  #taken = 0;
  #at: number;

  constructor(now: number) {
    this.#at = now;
  }

  /** Negative where more was taken than there was. */
  left({ perSecond, burst }: Rate, now: number): number {
    this.#taken = Math.max(0, this.#taken - (perSecond * Math.max(0, now - this.#at)) / 1000);
    this.#at = now;
    return burst - this.#taken;
  }

  take(cost: number): void {
    this.#taken += cost;
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
  #rates = ratesOf({ workers: 1, gateways: 0, grid: undefined, loadEveryMs: loadSampleMs(0) });
  #overAt = Number.NEGATIVE_INFINITY;

  constructor(ports: QuotaPorts) {
    this.#ports = ports;
    this.#pool = new Bucket(ports.now());
  }

  follow(needs: Needs): void {
    this.#pods = needs.workers + needs.gateways;
    this.#rates = ratesOf(needs);
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

  share(kind: Kind): Share {
    const { now } = this.#ports;
    const own = new Bucket(now());
    const left = (): number => own.left(this.#rates[kind], now());
    return {
      mayRead: () => this.#poolLeft() >= (left() >= 0 ? -most.burst : 0),
      admit: (bytes, values) => {
        if (this.#poolLeft() < 0 && left() < -this.#rates[kind].burst) throw this.#refusal(kind);
        own.take(costOf(bytes, values));
        this.#pool.take(costOf(bytes, values));
      },
      delayed: () => this.#over("delayed"),
    };
  }

  #poolLeft(): number {
    return this.#pool.left(this.#rates.pool, this.#ports.now());
  }

  #refusal(kind: Kind): AppError {
    this.#over("dropped");
    const message = `above the quota of ${Math.round(this.#rates[kind].perSecond)} values a second for each of ${this.#pods} pods`;
    return new AppError(message, { code: "InvalidRequest", operation: "reading a pod's answers" });
  }

  #over(what: OverQuota): void {
    const first = !this.wasOver(quietMs);
    this.#overAt = this.#ports.now();
    this.#ports.onOver(what, first);
  }
}
