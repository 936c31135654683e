// The next actions on pods (core/pod-actions.ts). After the number of ranks; before the progress, which describes these actions. Pure.
import { afterGateways } from "../core/gateways-first.ts";
import { orphanRemovals } from "../core/orphans.ts";
import { nextStep } from "./pod-actions.ts";
import { feature } from "./feature.ts";

export const repair = feature({
  name: "repair",
  needs: ["spec", "facts", "ranks"],
  run: ({ memory, ticksMs, gatewayModels }, { spec, facts: { snapshot }, ranks: { target } }) => {
    const { surgeRefused, createError, gatewaysSinceMs } = memory;
    const { successor, template } = spec;
    const surgeError = surgeRefused && ticksMs < surgeRefused.untilMs ? surgeRefused.message : "";
    const step = nextStep({ snapshot, ranks: target.ranks, successor, limitBytes: template.limitBytes, surgeError });
    const held = afterGateways(step, snapshot, { gateways: gatewayModels.length, sinceMs: gatewaysSinceMs, nowMs: ticksMs });
    const orphans = orphanRemovals(snapshot, target.ranks, createError || impossible(spec));
    return { step: held.step, orphans, remember: { gatewaysSinceMs: held.sinceMs } };
  },
});

/** Why no rank can be created; empty when one can. */
export function impossible({ successor, refusals, failure }: Parameters<typeof repair.run>[1]["spec"]): string {
  if (successor !== "None") return "";
  return [...refusals, ...(failure ? [failure] : [])].map(({ message }) => message).join("; ");
}
