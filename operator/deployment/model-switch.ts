// The check that the pods of a deployment have the model that is to be in force. Pure; called by reconcile.ts.
import type { PodFacts } from "./core/snapshot.ts";
import type { StandInInput } from "./core/stand-in.ts";
import { modelPlace, modelText, rankModelText } from "./objects/model-place.ts";
import type { Aim } from "./spec-pass.ts";

/**
 * All ranks of a world serve one model, and its gateways have its tokenizer. So pods of another model than that of the spec to be in
 * force, `aim`, all stop before one of its own is made: Accepting while it is not accepted yet, and everything else stays as it is;
 * then Stopping. `gateways`: the models of those that are there.
 */
export function modelSwitch(
  { aim, accepted }: Pick<Aim, "aim" | "accepted">,
  ranks: readonly PodFacts[],
  gateways: readonly (string | undefined)[],
): StandInInput["stands"] {
  if (!aim) return "Same";
  const [wanted, front] = [rankModelText(aim), modelText(modelPlace(aim))];
  const others = ranks.some(({ model }) => model !== undefined && model !== wanted);
  if (!others && !gateways.some((model) => model !== undefined && model !== front)) return "Same";
  return accepted && rankModelText(accepted) === wanted ? "Stopping" : "Accepting";
}
