// Five bugs in the protocol, each planted into one simulated cluster, to show that the fault search would find them.
import { PlanRun } from "../../operator/rebalance/protocol.ts";
import { PlanState } from "../../runtime/engine/core/plan-state.ts";
import type { SimCluster } from "./cluster.ts";
import type { Plant } from "./faults.ts";
import { SimWorker } from "./worker.ts";

/** Private parts of the code under test, as the plants bend them. */
interface RunParts {
  layers: Map<number, { phase: string; ready: Set<number>; committed: Set<number>; released: Set<number> }>;
  members: Map<number, string>;
  commitIfReady(run: { phase: string; ready: Set<number> }): void;
  mayRelease(): boolean;
  sendCommits(actions: unknown[]): void;
  expire(actions: unknown[]): void;
}

/** Replaces a method on a prototype; returns the way back. */
function bend(
  target: object,
  name: string,
  make: (original: (...args: unknown[]) => unknown) => (this: unknown, ...args: unknown[]) => unknown,
): () => void {
  const holder = target as Record<string, (...args: unknown[]) => unknown>;
  const original = holder[name]!;
  holder[name] = make(original);
  return () => {
    holder[name] = original;
  };
}

function undo(removes: readonly (() => void)[]): void {
  for (const remove of removes) remove();
}

export interface PlantedBug {
  readonly name: string;
  /** Plants it; returns the way to take it out again. */
  readonly plant: () => { readonly into: Plant; readonly remove: () => void };
  /** Faults that bring it out; all when not given. */
  readonly only?: readonly string[];
  /** What the oracle says when it sees it. */
  readonly seen: RegExp;
}

export const plantedBugs: readonly PlantedBug[] = [
  {
    name: "a rank commits without waiting for READY",
    seen: /without its bytes/,
    plant: () => {
      const removes = [
        bend(
          PlanRun.prototype,
          "commitIfReady",
          () =>
            function (this: unknown, run) {
              const layer = run as { phase: string; ready: Set<number> };
              layer.phase = "committing";
              for (const rank of (this as RunParts).members.keys()) layer.ready.add(rank);
            },
        ),
        // The worker has its own check; a bug has to get past both.
        bend(
          PlanState.prototype,
          "commit",
          (original) =>
            function (this: unknown, plan) {
              const state = this as PlanState;
              for (const { layer, epoch } of (plan as { layers: { layer: number; epoch: number }[] }).layers) state.ready(layer, epoch);
              return original.call(this, plan);
            },
        ),
      ];
      return { into: () => {}, remove: () => undo(removes) };
    },
  },
  {
    name: "copies are freed before every source has left the parent",
    seen: /still routes to it/,
    plant: () => {
      const removes = [
        bend(
          PlanRun.prototype,
          "sendCommits",
          (original) =>
            function (this: unknown, actions) {
              original.call(this, actions);
              for (const layer of (this as RunParts).layers.values())
                if (layer.phase === "committing" && layer.committed.size > 0) layer.phase = "releasing";
            },
        ),
        bend(PlanRun.prototype, "mayRelease", () => () => true),
      ];
      return { into: () => {}, remove: () => undo(removes) };
    },
  },
  {
    name: "a host serves frames of epoch n-2",
    seen: /served a frame/,
    plant: () => {
      const remove = bend(PlanState.prototype, "serves", () => () => true);
      return { into: () => {}, remove };
    },
  },
  {
    name: "a layer is committed after its deadline",
    only: ["topic", "crawl"],
    seen: /was first committed/,
    plant: () => {
      const removes = [
        bend(PlanRun.prototype, "expire", () => () => undefined),
        bend(
          SimWorker.prototype,
          "prepare",
          (original) =>
            function (this: unknown, plan, _deadline, onEvent) {
              return original.call(this, plan, Number.POSITIVE_INFINITY, onEvent);
            },
        ),
      ];
      return { into: () => {}, remove: () => undo(removes) };
    },
  },
  {
    name: "an epoch is used twice",
    seen: /was written after|written after/,
    plant: () => ({
      into: (sim: SimCluster) => {
        sim.reuseEpochs = true;
      },
      remove: () => {},
    }),
  },
];
