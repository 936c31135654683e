// The number of ranks to run, and the fewest that hold all experts. After the facts, before all that counts ranks. Pure.
import { rankFloor, rememberedFloor } from "../core/capacity.ts";
import { memoryRefusals } from "../core/memory-fit.ts";
import { targetRanks } from "../core/target.ts";
import { feature } from "./feature.ts";

export const ranks = feature({
  name: "ranks",
  needs: ["spec", "facts"],
  run: ({ fallen }, { spec, facts: { snapshot } }) => {
    const { deployment, view, now } = snapshot;
    const { limitBytes } = spec.template;
    const floor = view?.model ? rankFloor(deployment.spec, view.model, limitBytes) : rememberedFloor(deployment.status);
    const target = targetRanks(deployment, now, { floor, fallen });
    return { target, floor, memoryRefusals: memoryRefusals(deployment.spec, view?.model, target.ranks, limitBytes) };
  },
});
