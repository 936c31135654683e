// Carries one plan out: performs the actions of protocol.ts through the links and feeds back what came of them. Short and
// dull on purpose; every decision is the protocol's.
import { AppError } from "../../../crds/common.ts";
import type { PlacementPlan } from "../../../crds/plan.ts";
import type { Fetched } from "../../../runtime/placement/cost.ts";
import { backoffMs } from "../intents/attempts.ts";
import type { Clock, Link } from "../ports.ts";
import type { PlanRun } from "./protocol.ts";
import type { Action, Event, Outcome } from "./protocol-types.ts";

export interface PushOptions {
  readonly run: PlanRun;
  /** The whole new plan. */
  readonly plan: PlacementPlan;
  readonly clock: Clock;
  readonly link: (rank: number) => Link | undefined;
  /** Bytes per second this receiver may take; 0 = unlimited. */
  readonly maxBytesPerSecond: (rank: number) => number;
  /** What a receiver took for a layer that is ready. */
  readonly onFetched: (rank: number, fetched: readonly Fetched[]) => void;
  /** After every event that changed something. */
  readonly onProgress: () => void;
}

const tickMs = 250;
/** Between two Prepares to a rank that keeps failing; reached by doubling. */
const longestPauseMs = 4_000;

export class Push {
  readonly finished: Promise<Outcome>;
  private readonly o: PushOptions;
  private readonly queue: Event[] = [];
  private running = false;
  private resolve: (outcome: Outcome) => void = () => {};
  private stopped = false;
  /** Failures of Prepare since the last layer that was ready, by rank. */
  private readonly failures = new Map<number, number>();

  constructor(options: PushOptions) {
    this.o = options;
    this.finished = new Promise((resolve) => {
      this.resolve = resolve;
    });
    this.feed({ type: "start" });
    this.tick();
  }

  /** Membership changes come in here; answers of calls are fed by the push itself. */
  feed(event: Event): void {
    if (this.stopped) return;
    this.queue.push(event);
    if (this.running) return;
    this.running = true;
    for (let next = this.queue.shift(); next; next = this.queue.shift()) {
      for (const action of this.o.run.on(next)) void this.perform(action);
    }
    this.running = false;
    const { outcome } = this.o.run;
    if (outcome) {
      this.stopped = true;
      this.resolve(outcome);
    }
    this.o.onProgress();
  }

  /** Leadership is lost: calls under way end by themselves, their answers are dropped. */
  stop(): void {
    this.stopped = true;
  }

  private tick(): void {
    this.o.clock.after(tickMs, () => {
      if (this.stopped) return;
      this.feed({ type: "tick", now: this.o.clock.now() });
      this.tick();
    });
  }

  private async perform(action: Action): Promise<void> {
    const link = this.o.link(action.rank);
    // Without a link the failure is the boot's that the protocol has in mind: another name would be ignored, and the retry lost.
    const bootId = link?.description?.bootId ?? this.o.run.bootOf(action.rank) ?? "";
    const missing = new AppError(`rank ${action.rank} is not connected`, { code: "Unavailable", retry: "backoff" });
    switch (action.type) {
      case "prepare":
        return this.prepare(action, link, bootId, missing);
      case "commit":
        return this.commit(action, link, bootId);
      case "release":
        return this.release(action, link, bootId);
      case "abort":
        // Best effort: the fence of the next epoch aborts it as well.
        await link?.abort(this.o.run.epoch, action.layers).catch(() => {});
        return;
    }
  }

  private async prepare(
    action: Extract<Action, { type: "prepare" }>,
    link: Link | undefined,
    bootId: string,
    missing: AppError,
  ): Promise<void> {
    const open = new Set(action.layers);
    const { rank } = action;
    try {
      if (!link) throw missing;
      await link.prepare(this.part(action.layers), action.deadline, this.o.maxBytesPerSecond(rank), (event) => {
        if (event.type === "progress") return;
        open.delete(event.layer);
        if (event.type === "ready") this.failures.delete(rank);
        if (event.type === "ready") this.o.onFetched(rank, event.fetched);
        if (event.type === "ready") this.feed({ type: "ready", rank, bootId, layer: event.layer, bytes: event.bytes });
        else this.later({ type: "failed", rank, bootId, layer: event.layer, message: event.message });
      });
      for (const layer of open)
        this.later({ type: "failed", rank, bootId, layer, message: "the stream ended without an answer for the layer" });
    } catch (caught) {
      for (const layer of open) this.later({ type: "failed", rank, bootId, layer, message: AppError.from(caught).message });
    }
  }

  /** A failure is fed after a pause that grows with them, since the answer to it is to ask again. */
  private later(event: Extract<Event, { type: "failed" }>): void {
    const failures = (this.failures.get(event.rank) ?? 0) + 1;
    this.failures.set(event.rank, failures);
    this.o.clock.after(backoffMs(failures, tickMs, longestPauseMs), () => this.feed(event));
  }

  private async commit(action: Extract<Action, { type: "commit" }>, link: Link | undefined, bootId: string): Promise<void> {
    const { rank, layers } = action;
    try {
      if (!link) return this.feed({ type: "unanswered", rank, call: "commit" });
      const reply = await link.commit(this.part(layers));
      const committed = reply.committed.filter((layer) => layers.includes(layer));
      if (reply.refused !== "" && reply.epoch > this.o.run.epoch)
        this.feed({ type: "refused", rank, bootId, epoch: reply.epoch, message: reply.refused });
      else this.feed({ type: "committed", rank, bootId, layers: committed, asked: layers });
    } catch (caught) {
      const error = AppError.from(caught);
      // A worker that has seen a newer epoch answers StalePlan: another leader is at work.
      if (error.code === "StalePlan") this.feed({ type: "refused", rank, bootId, epoch: this.o.run.epoch + 1, message: error.message });
      else this.feed({ type: "unanswered", rank, call: "commit" });
    }
  }

  private async release(action: Extract<Action, { type: "release" }>, link: Link | undefined, bootId: string): Promise<void> {
    const { rank, layers, drainOnly } = action;
    const call = drainOnly ? "drain" : "release";
    try {
      if (!link) return this.feed({ type: "unanswered", rank, call });
      const reply = await link.release(this.o.run.epoch, layers, drainOnly);
      const released = reply.released.filter((layer) => layers.includes(layer));
      this.feed({ type: "released", rank, bootId, layers: released, asked: layers, drainOnly });
    } catch {
      this.feed({ type: "unanswered", rank, call });
    }
  }

  private part(layers: readonly number[]): PlacementPlan {
    return { ...this.o.plan, layers: this.o.plan.layers.filter(({ layer }) => layers.includes(layer)) };
  }
}
