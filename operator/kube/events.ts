// Writes Kubernetes events (events.k8s.io/v1). Repeats are counted on the first event, an object and reason with varying notes has a
// budget, and no failure reaches the caller.
import { createHash } from "node:crypto";
import { type Kube, type KubeObject, resources } from "./kube.ts";
import { ServerClock } from "./server-clock.ts";
import type { Clock } from "./workqueue.ts";

const repeatWindowMs = 10 * 60_000;
/** Minimum interval of updates to a repeated event. */
const seriesPatchMs = 30_000;
const rememberedMax = 4096;
/** Size of a burst per object and reason, and the pause for one more. */
const burstMax = 25;
const burstPauseMs = 60_000;
const noteCharsMax = 1000;

export interface EventOptions {
  readonly kube: Pick<Kube, "create" | "patch">;
  readonly reportingInstance: string;
  readonly clock?: Clock;
  readonly onError?: (error: unknown) => void;
}

export interface EventInput {
  readonly regarding: {
    readonly apiVersion: string;
    readonly kind: string;
    readonly namespace: string;
    readonly name: string;
    readonly uid: string;
  };
  readonly type: "Normal" | "Warning";
  /** PascalCase, at most 128 characters. */
  readonly reason: string;
  readonly note: string;
}

interface Remembered {
  name: string;
  first: number;
  count: number;
  patched: number;
  written: Promise<boolean>;
}

interface Budget {
  /** Events that may be written now. */
  left: number;
  at: number;
  /** The last written event. */
  key: string;
}

export class EventRecorder {
  readonly #options: EventOptions;
  readonly #clock: Clock;
  readonly #recent = new Map<string, Remembered>();
  readonly #budgets = new Map<string, Budget>();

  constructor(options: EventOptions) {
    this.#options = options;
    this.#clock = options.clock ?? new ServerClock().steady();
  }

  record(event: EventInput): void {
    const now = this.#clock.now();
    const key = createHash("sha256").update(JSON.stringify(event)).digest("hex").slice(0, 16);
    if (this.#repeats(key, event, now)) return;
    const budget = this.#budget(event, now);
    if (budget.left < 1 && this.#repeats(budget.key, event, now)) return;
    budget.left = Math.max(0, budget.left - 1);
    budget.key = key;
    const name = `${event.regarding.name}.${key}${now.toString(36)}`;
    remember(this.#recent, key, { name, first: now, count: 1, patched: now, written: this.#write(event, name, now) });
  }

  /** Counts it on a recent event; false when there is none. */
  #repeats(key: string, event: EventInput, now: number): boolean {
    const known = this.#recent.get(key);
    if (!known || now - known.first >= repeatWindowMs) return false;
    known.count += 1;
    if (now - known.patched >= seriesPatchMs) {
      known.patched = now;
      void this.#patchSeries(event, known, now);
    }
    return true;
  }

  #budget({ regarding, reason }: EventInput, now: number): Budget {
    const key = `${regarding.uid}/${reason}`;
    const budget = this.#budgets.get(key) ?? { left: burstMax, at: now, key: "" };
    budget.left = Math.min(burstMax, budget.left + (now - budget.at) / burstPauseMs);
    budget.at = now;
    remember(this.#budgets, key, budget);
    return budget;
  }

  /** Waits for all recorded events, at shutdown and in tests. */
  async flush(): Promise<void> {
    await Promise.all([...this.#recent.values()].map((one) => one.written));
  }

  async #write(event: EventInput, name: string, now: number): Promise<boolean> {
    const object: KubeObject = {
      apiVersion: "events.k8s.io/v1",
      kind: "Event",
      metadata: { name, namespace: event.regarding.namespace },
      regarding: event.regarding,
      type: event.type,
      reason: event.reason,
      note: event.note.slice(0, noteCharsMax),
      action: "Reconcile",
      eventTime: micro(now),
      reportingController: "enodia.dev/operator",
      reportingInstance: this.#options.reportingInstance,
    };
    try {
      await this.#options.kube.create(resources.events, object, { manager: "enodia-events" });
      return true;
    } catch (error) {
      this.#options.onError?.(error);
      return false;
    }
  }

  async #patchSeries(event: EventInput, known: Remembered, now: number): Promise<void> {
    if (!(await known.written)) return;
    const series = { count: Math.max(known.count, 2), lastObservedTime: micro(now) };
    try {
      await this.#options.kube.patch(
        resources.events,
        { namespace: event.regarding.namespace, name: known.name },
        { series },
        { manager: "enodia-events" },
      );
    } catch (error) {
      this.#options.onError?.(error);
    }
  }
}

/** Evicts the least recent entry. */
function remember<V>(map: Map<string, V>, key: string, value: V): void {
  map.delete(key);
  if (map.size >= rememberedMax) map.delete(map.keys().next().value ?? "");
  map.set(key, value);
}

const micro = (ms: number): string => new Date(ms).toISOString().replace("Z", "000Z");
