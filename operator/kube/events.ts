// Kubernetes events about our objects (events.k8s.io/v1). Repeats within a time are counted on the first event, not written anew.
// Never fails its caller: an event is a courtesy.
import { createHash } from "node:crypto";
import { type Kube, type KubeObject, resources } from "./kube.ts";
import { type Clock, systemClock } from "./workqueue.ts";

const repeatWindowMs = 10 * 60_000;
/** A repeated event is updated at most this often. */
const seriesPatchMs = 30_000;
const rememberedMax = 4096;
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

export class EventRecorder {
  readonly #options: EventOptions;
  readonly #clock: Clock;
  readonly #recent = new Map<string, Remembered>();

  constructor(options: EventOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
  }

  record(event: EventInput): void {
    const now = this.#clock.now();
    const key = createHash("sha256").update(JSON.stringify(event)).digest("hex").slice(0, 16);
    const known = this.#recent.get(key);
    if (known && now - known.first < repeatWindowMs) {
      known.count += 1;
      if (now - known.patched >= seriesPatchMs) {
        known.patched = now;
        void this.#patchSeries(event, known, now);
      }
      return;
    }
    const name = `${event.regarding.name}.${key}${now.toString(36)}`;
    if (this.#recent.size >= rememberedMax) this.#recent.delete(this.#recent.keys().next().value ?? "");
    this.#recent.set(key, { name, first: now, count: 1, patched: now, written: this.#write(event, name, now) });
  }

  /** Waits for what was recorded so far; for shutdown and tests. */
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

const micro = (ms: number): string => new Date(ms).toISOString().replace("Z", "000Z");
