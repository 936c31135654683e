// The spec in effect, and why the stored one is not. First of the second half, since all changes of pods follow it. DECISIONS.md 2. Pure.
import type { AppError } from "../../../crds/common.ts";
import type { Refusal } from "../../kube/refusal-text.ts";
import type { Memory } from "../core/memory.ts";
import { rankModelText } from "../objects/model-place.ts";
import type { AcceptedRevision } from "../objects/revision.ts";
import { ownImage } from "../objects/worker-pod.ts";
import { feature, type Given, type ResultOf } from "./feature.ts";
import { modelChange } from "./model-change.ts";
import { objects } from "./objects.ts";
import type { Successor } from "./pod-actions.ts";

/** The pass adds these between the halves (DECISIONS.md 1). */
export interface Answers {
  readonly refusals: readonly Refusal[];
  readonly conflicts: readonly string[];
  /** The spec is accepted as written. */
  readonly accepted: boolean;
  readonly successor: Successor;
  readonly revisions: readonly AcceptedRevision[];
  /** The first error that prevents both acceptance and refusal. */
  readonly failure: AppError | undefined;
  readonly deliveryFailure: AppError | undefined;
  readonly againInMs: number | undefined;
  readonly remember: Pick<Memory, "dryRuns" | "jobRefused">;
}

const answers: Given<Answers> = {};

export const spec = feature({
  needs: { modelChange, objects, answers },
  run: ({ rendered }, { modelChange, objects, answers }) => {
    const { accepted, stable, wanted, runtimeImage, offered, rolledBack } = rendered;
    const { failure, conflicts } = answers;
    const { spec: stored } = modelChange.deployment;
    const effective = answers.accepted ? { spec: stored, runtimeImage } : accepted;
    const refusals = answers.refusals.length === 0 ? [] : [...answers.refusals, meanwhile(answers.refusals[0]?.reason ?? "", accepted)];
    return {
      /** Template of new pods; unused with a successor of `None`. */
      template: (answers.accepted ? wanted : accepted?.template) ?? wanted,
      /** Lost ranks that keep the old template get this one; undefined if unknown. */
      stable: stable?.template,
      // A rolling change would mix two models in one world.
      successor: modelChange.state === "Accepting" ? ("Refused" as const) : answers.successor,
      rollout: effective && {
        revisions: answers.revisions.map(({ number, accepted: one }) => ({ number, templateHash: one.template.hash })),
        models: { wanted: rankModelText(objects.held ? stored : effective.spec), stable: stable && rankModelText(stable.spec) },
        rolledBack,
      },
      runtimeImage: effective && { pinned: effective.runtimeImage, offered, own: ownImage(effective.spec) },
      refusals,
      conflicts,
      failure,
      good: refusals.length === 0 && failure === undefined,
    };
  },
});

export type Spec = ResultOf<typeof spec>;

/** The last sentence of a refusal: what applies meanwhile. */
function meanwhile(reason: string, accepted: { readonly generation: number } | undefined) {
  const message = accepted
    ? `meanwhile the spec of generation ${accepted.generation} stays in effect`
    : "no spec was accepted before, so no pod is made";
  return { reason, message };
}
