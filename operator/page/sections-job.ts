// The page of one training job. Pure.
import type { MoETrainingJob } from "../../crds/moe-training-job.ts";
import { ascending } from "../../crds/training-report.ts";
import { conditionTable, healthMark } from "../views/deployment.ts";
import { jobFacts, jobState, worldTable } from "../views/job.ts";
import { facts, message } from "../views/section.ts";
import { chart } from "./chart.ts";
import { type Html, html } from "./html.ts";
import { nothing, type Sections, sectionHtml } from "./sections.ts";

export function jobSections(job: MoETrainingJob): Sections {
  const { health } = jobState(job);
  return {
    head: html`${sectionHtml(message(healthMark(health), health.message))}${sectionHtml(facts(...jobFacts(job)))}`,
    loss: lossOf(job.status),
    world: sectionHtml(worldTable(job)),
    conditions: sectionHtml(conditionTable(job.status.conditions)),
  };
}

/** Points at which the curve is interpolated. */
const points = 240;

function lossOf(status: MoETrainingJob["status"]): Html {
  const curve = ascending((status.curve ?? []).map(({ step, loss }) => ({ step, loss: Number(loss) })));
  const [first, last] = [curve[0], curve.at(-1)];
  if (!first || !last || first === last) return nothing("the curve begins with its second point");
  let at = 0;
  const values = Array.from({ length: points }, (_, i) => {
    const step = first.step + ((last.step - first.step) * i) / (points - 1);
    while (at < curve.length - 2 && (curve[at + 1]?.step ?? 0) < step) at++;
    const [from, to] = [curve[at] ?? first, curve[at + 1] ?? last];
    return from.loss + ((to.loss - from.loss) * (step - from.step)) / (to.step - from.step);
  });
  const floor = values.reduce((a, b) => Math.min(a, b));
  return chart({
    title: "Loss",
    unit: "",
    floor,
    ends: [`step ${first.step}`, `step ${last.step}`],
    curves: [{ label: "of the step", values, tone: "a" }],
  });
}
