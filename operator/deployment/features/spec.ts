// The spec in effect, and why the stored one is not. First of the second half, since all changes of pods follow it. DECISIONS.md 2. Pure.
import { rankModelText } from "../objects/model-place.ts";
import { ownImage } from "../observe/render.ts";
import { feature } from "./feature.ts";

export const spec = feature({
  name: "spec",
  needs: ["change", "objects", "answers"],
  run: ({ rendered }, { change, objects, answers }) => {
    const { accepted, stable, wanted, runtimeImage, offered, back } = rendered;
    const { kept, failure, conflicts } = answers;
    const { spec: stored } = change.deployment;
    const inForce = kept ? { spec: stored, runtimeImage } : accepted;
    const refusals = answers.refusals.length === 0 ? [] : [...answers.refusals, meanwhile(answers.refusals[0]?.reason ?? "", accepted)];
    return {
      template: (kept ? wanted : accepted?.template) ?? wanted,
      stable: stable?.template,
      // A rolling change would mix two models in one world.
      successor: change.atOnce ? "Refused" : answers.successor,
      rollout: inForce && {
        revisions: answers.revisions.map(({ number, accepted: one }) => ({ number, templateHash: one.template.hash })),
        models: { wanted: rankModelText(objects.held ? stored : inForce.spec), stable: stable && rankModelText(stable.spec) },
        rolledBack: back,
      },
      runtimeImage: inForce && { pinned: inForce.runtimeImage, offered, own: ownImage(inForce.spec) },
      refusals,
      conflicts,
      failure,
      good: refusals.length === 0 && failure === undefined,
    };
  },
});

/** The last sentence of a refusal: what applies meanwhile. */
function meanwhile(reason: string, accepted: { readonly generation: number } | undefined) {
  const message = accepted
    ? `meanwhile the spec of generation ${accepted.generation} stays in force`
    : "no spec was accepted before, so no pod is made";
  return { reason, message };
}
