// The current operation and the state of the roll. After the repair, whose actions name the operation. Pure.
import { currentOperation } from "../core/operation.ts";
import { rolloutView } from "./rollout-status.ts";
import { feature } from "./feature.ts";

export const progress = feature({
  name: "progress",
  needs: ["facts", "ranks", "repair"],
  run: (_, { facts: { snapshot }, ranks: { target }, repair: { step } }) => {
    const blocked = target.blocked ?? step.blocked;
    const operation = currentOperation({ snapshot, ranks: target.ranks, actions: step.actions, blocked, note: step.note });
    return { operation, rollout: rolloutView(snapshot, target.ranks, operation?.id) };
  },
});
