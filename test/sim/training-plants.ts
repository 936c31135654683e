// Five bugs in how ranks of training commit steps and hand over their state, each one change in one place, planted into the code under
// test to show that the fault search would find them.
import { RankState } from "../../runtime/train/ranks/rank-state.ts";
import { RankStores } from "../../runtime/train/ranks/rank-stores.ts";
import { UnitState } from "../../runtime/train/ranks/unit-state.ts";
import { bend, type PlantedBug } from "./plants.ts";

/** State that is on its way is kept for so long, in milliseconds, in place of until everybody has what comes to it. */
const leftMs = 30;

type CommitState = RankState["commitState"];

/** Changes what a rank says of where it stands. */
function bendCommitState(make: (commitState: CommitState) => CommitState): () => void {
  const original = Object.getOwnPropertyDescriptor(RankState.prototype, "commitState")!;
  const get = function (this: RankState): CommitState {
    return make(original.get!.call(this) as CommitState);
  };
  Object.defineProperty(RankState.prototype, "commitState", { ...original, get });
  return () => void Object.defineProperty(RankState.prototype, "commitState", original);
}

export const trainingBugs: readonly PlantedBug[] = [
  {
    name: "a rank says its norm before its shadow has the gradients",
    seen: /has other bits of units/,
    plant: () => bend<() => Promise<void>>(RankStores.prototype, "gradientsArrived", () => () => Promise.resolve()),
  },
  {
    name: "a rank drops what it had once its new state has come",
    seen: /lost, after step/,
    plant: () =>
      bend<(this: RankState, ...args: Parameters<RankState["arrived"]>) => void>(
        RankState.prototype,
        "arrived",
        (original) =>
          function (this: RankState, ...args) {
            original.apply(this, args);
            this.begun();
          },
      ),
  },
  {
    name: "an expert that moves is dropped after a time, and not when everybody has it",
    seen: /lost, after step/,
    plant: () =>
      bend<(this: UnitState, layer: number, expert: number) => void>(
        UnitState.prototype,
        "leave",
        (original) =>
          function (this: UnitState, layer, expert) {
            original.call(this, layer, expert);
            setTimeout(() => this.dropLeft(), leftMs);
          },
      ),
  },
  {
    name: "gradients are forgotten when a world ends",
    seen: /lost, after step/,
    plant: () => bendCommitState(({ applied, decided }) => ({ applied, prepared: applied, decided })),
  },
  {
    name: "a step counts as made once its gradients are there",
    seen: /has other bits of units/,
    plant: () => bendCommitState(({ prepared, decided }) => ({ applied: prepared, prepared, decided })),
  },
];
