// A watch on an ExpertPlacement by one `kubectl get --watch`, so that looking costs the machine the same whether experts move or
// not, and no short phase is missed between two looks.
import { type ChildProcess, spawn } from "node:child_process";
import type { ExpertPlacementSpec, ExpertPlacementStatus } from "../../crds/expert-placement.ts";
import type { PlacementPlan } from "../../crds/plan.ts";
import { fromSpec } from "../../operator/rebalance/rollout/plan-object.ts";
import { diffPlans } from "../../runtime/placement/diff.ts";
import { stop, until } from "../kit/processes/process.ts";
import type { Deployed } from "./world.ts";

export interface Seen {
  /** Unix ms. */
  readonly at: number;
  readonly epoch: number;
  readonly status: ExpertPlacementStatus;
}

/** Expert replicas that a plan newly places, and the ranks that have what they are made from. */
export type Moves = ReturnType<typeof diffPlans>["moves"];

const movingPhases: readonly string[] = ["Preparing", "Committing", "Releasing"];
export const isMoving = ({ status }: Seen): boolean => movingPhases.includes(status.phase ?? "");
export const hasEnded = ({ status }: Seen): boolean => status.phase === "Committed" || status.phase === "Aborted";
/**
 * The outcome of a plan as a status says it: a plan is written first, and its status follows, so an ended one may be that of the
 * plan before.
 */
export const outcome = ({ status }: Seen): string => JSON.stringify([status.phase, status.committedEpoch, status.reason, status.measured]);

export class PlacementWatch {
  readonly seen: Seen[] = [];
  readonly plans = new Map<number, PlacementPlan>();
  readonly #args: readonly [binary: string, args: readonly string[]];
  #child: ChildProcess | undefined;
  #closed = false;

  constructor({ kubectl, name }: Pick<Deployed, "kubectl" | "name">) {
    this.#args = [kubectl.binary, [...kubectl.flags, "get", "eplace", name, "--watch", "-o", "json"]];
    this.#run();
  }

  get latest(): Seen | undefined {
    return this.seen.at(-1);
  }
  get epoch(): number {
    return this.latest?.epoch ?? 0;
  }
  /** The layers of the last plan that was committed. */
  get placed(): PlacementPlan["layers"] {
    return this.plans.get(this.latest?.status.committedEpoch ?? this.epoch)?.layers ?? [];
  }

  /** The API server ends watches now and then. */
  #run(): void {
    if (this.#closed) return;
    const child = spawn(this.#args[0], this.#args[1], { stdio: ["ignore", "pipe", "ignore"] });
    this.#child = child;
    let text = "";
    child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
      const documents = (text + chunk).split(/(?<=^})\n/m);
      text = documents.pop() ?? "";
      for (const document of documents) this.#take(JSON.parse(document));
    });
    child.on("close", () => setTimeout(() => this.#run(), 500));
  }

  #take({ spec, status }: { spec: ExpertPlacementSpec; status?: ExpertPlacementStatus }): void {
    this.seen.push({ at: Date.now(), epoch: spec.epoch, status: status ?? {} });
    if (!this.plans.has(spec.epoch)) this.plans.set(spec.epoch, fromSpec(spec));
  }

  /** The first thing seen from index `from` on that `accept` takes. */
  next(what: string, accept: (seen: Seen) => boolean, timeoutMs: number, from = this.seen.length): Promise<Seen> {
    return until(
      what,
      () => {
        const found = this.seen.slice(from).find(accept);
        if (found || !this.latest) return found;
        const { epoch, status } = this.latest;
        throw new Error(`epoch ${epoch}, ${status.phase}, ${status.layersCommitted} layers committed: ${status.reason}`);
      },
      { timeoutMs, everyMs: 10 },
    );
  }

  /** The new places of each plan after epoch `from`. */
  plansSince(from: number): readonly { readonly epoch: number; readonly moves: Moves }[] {
    const epochs = [...this.plans.keys()].filter((epoch) => epoch >= from).sort((a, b) => a - b);
    return epochs.slice(1).flatMap((epoch, i) => {
      const [before, after] = [this.plans.get(epochs[i] as number), this.plans.get(epoch)];
      return before && after ? [{ epoch, moves: diffPlans(before.layers, after.layers, () => 0).moves }] : [];
    });
  }
  movesSince(from: number): Moves {
    return this.plansSince(from).flatMap(({ moves }) => moves);
  }

  /** The time at which every layer of a plan was committed; undefined while that has not been seen. */
  committedAt(epoch: number): number | undefined {
    return this.seen.find((seen) => seen.epoch === epoch && seen.status.phase === "Committed" && seen.status.committedEpoch === epoch)?.at;
  }

  /** Part of the time between two moments in which a plan was carried out. */
  movingShare(from: number, to: number): number {
    let moving = 0;
    this.seen.forEach((seen, i) => {
      const end = Math.min(to, this.seen[i + 1]?.at ?? to);
      const start = Math.max(from, seen.at);
      if (isMoving(seen) && end > start) moving += end - start;
    });
    return moving / (to - from);
  }

  async close(): Promise<void> {
    this.#closed = true;
    if (this.#child) await stop(this.#child);
  }
}
