// The two halves of a decision (DECISIONS.md 1). The lists below are the order, and each feature says why it is there. Pure.
import { aim } from "./features/aim.ts";
import { blueGreen } from "./features/blue-green.ts";
import { change } from "./features/change.ts";
import { delivery } from "./features/delivery.ts";
import { facts } from "./features/facts.ts";
import { type Listed, runFeatures } from "./features/feature.ts";
import { modelSource } from "./features/model-source.ts";
import { objects } from "./features/objects.ts";
import { progress } from "./features/progress.ts";
import { ranks } from "./features/ranks.ts";
import { repair } from "./features/repair.ts";
import type { Answers, Results } from "./features/results.ts";
import { scale } from "./features/scale.ts";
import { spec } from "./features/spec.ts";
import type { Observed } from "./observed.ts";

export const asking: readonly Listed[] = [modelSource, delivery, aim, blueGreen, change, objects];
export const acting: readonly Listed[] = [spec, facts, ranks, repair, progress, scale];

export type Plan = Pick<Results, "source" | "delivery" | "aim" | "blueGreen" | "change" | "objects">;
export type Decision = Results;

export const plan = (observed: Observed): Plan => runFeatures<keyof Plan>(asking, observed, {});

export const decide = (observed: Observed, planned: Plan, answers: Answers): Decision =>
  runFeatures<keyof Decision>(acting, observed, { ...planned, answers });
