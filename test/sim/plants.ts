// Five bugs in the protocol, each one change in one place, planted into the code under test to show that the fault search would
// find them.

import { Placement, type PlanNote } from "../../operator/rebalance/rollout/placement.ts";
import type { ProtocolRules } from "../../operator/rebalance/rollout/protocol-types.ts";
import { PlanState } from "../../runtime/worker/plan-state.ts";

type Method = (this: never, ...args: never[]) => unknown;

/** Replaces a method on a prototype; returns the way back. */
export function bend<M extends Method>(target: object, name: string, make: (original: M) => M): () => void {
  const holder = target as Record<string, M>;
  const original = holder[name]!;
  holder[name] = make(original);
  return () => {
    holder[name] = original;
  };
}

let rules: Partial<ProtocolRules> = {};

/** The rules with which the operators of a simulation carry plans out. */
export const rulesPlanted = (): Partial<ProtocolRules> => rules;

/** Has operators that start from now on carry plans out by a broken rule; returns the way back. */
function breakRule(broken: Partial<ProtocolRules>): () => void {
  rules = broken;
  return () => {
    rules = {};
  };
}

type Write = (this: Placement, plan: { epoch: number }, note: PlanNote) => unknown;

/** The faults with which plans reach their deadlines. */
export const crawl: readonly string[] = ["topic", "crawl"];

export interface PlantedBug {
  readonly name: string;
  /** Plants it; returns the way to take it out again. */
  readonly plant: () => () => void;
  /** Faults that bring it out; all when not given. */
  readonly only?: readonly string[];
  /** The oracle's words when it sees it. */
  readonly seen: RegExp;
}

export const plantedBugs: readonly PlantedBug[] = [
  {
    name: "a layer is committed when the first rank is READY",
    seen: /lacks the expert of a frame/,
    plant: () => breakRule({ mayCommit: (_receivers, ready) => ready.size > 0 }),
  },
  {
    name: "expert replicas are freed before every source has drained",
    seen: /freed .* routes to it/,
    plant: () => breakRule({ mayRelease: () => true }),
  },
  {
    name: "a host serves frames of epoch n-2",
    seen: /served a frame of layer|serves frames of layer/,
    plant: () =>
      bend<(this: PlanState) => number[]>(
        PlanState.prototype,
        "lowestEpochs",
        (original) =>
          function (this: PlanState) {
            return original.call(this).map((lowest) => Math.min(lowest, 0)); // any epoch, where there is a placement
          },
      ),
  },
  {
    name: "a plan's deadline starts anew with every event",
    only: crawl,
    seen: /was first committed/,
    plant: () => breakRule({ deadline: (_deadline, now, prepareMs) => now + prepareMs }),
  },
  {
    name: "an epoch is used twice",
    seen: /was written after/,
    plant: () =>
      bend<Write>(
        Placement.prototype,
        "write",
        (original) =>
          function (this: Placement, plan, note) {
            return original.call(this, { ...plan, epoch: this.facts.stored?.spec.epoch ?? plan.epoch }, note);
          },
      ),
  },
];
