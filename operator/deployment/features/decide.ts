// The two halves of a decision (DECISIONS.md 1). The lists below are the order, and each feature says why it is there. Pure.
import type { Observed } from "../observed.ts";
import { blueGreen } from "./blue-green.ts";
import { delivery } from "./delivery.ts";
import { facts } from "./facts.ts";
import { type ResultsOf, runFeatures } from "./feature.ts";
import { greenActions } from "./green-actions.ts";
import { modelChange } from "./model-change.ts";
import { source } from "./model-source.ts";
import { objects } from "./objects.ts";
import { repair } from "./pod-repair.ts";
import { progress } from "./progress.ts";
import { ranks } from "./ranks.ts";
import { scale } from "./scale.ts";
import { type Answers, spec } from "./spec.ts";
import { targetSpec } from "./target-spec.ts";
import { world } from "./world.ts";

export const asking = { source, delivery, targetSpec, blueGreen, modelChange, objects };
export const acting = { spec, facts, greenActions, ranks, repair, progress, scale, world };

export type Plan = ResultsOf<typeof asking>;
export type Decision = Plan & { readonly answers: Answers } & ResultsOf<typeof acting>;

export const plan = (observed: Observed): Plan => Object.freeze(runFeatures(asking, observed, {})) as Plan;

export const decide = (observed: Observed, planned: Plan, answers: Answers): Decision =>
  Object.freeze(runFeatures(acting, observed, { ...planned, answers })) as Decision;
