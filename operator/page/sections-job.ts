// The page of one training job. Pure.
import type { MoETrainingJob } from "../../crds/moe-training-job.ts";
import { ascending } from "../../crds/training-report.ts";
import { bytes, figure } from "../views/format.ts";
import { jobState } from "../views/job.ts";
import { bar, chart } from "./chart.ts";
import { type Html, html } from "./html.ts";
import { type Column, conditionsTable, facts, log, markOf, nothing, type Sections, table } from "./sections.ts";
import { timeOf } from "./units.ts";

const ranksMax = 256;

type Status = MoETrainingJob["status"];

export function jobSections(job: MoETrainingJob): Sections {
  const { status } = job;
  return {
    head: headOf(job),
    loss: lossOf(status),
    world: worldOf(status),
    ends: endsOf(status),
    conditions: conditionsTable(status.conditions),
  };
}

function headOf(job: MoETrainingJob): Html {
  const { health, step, steps } = jobState(job);
  const { loss, validationLoss, gradientNorm, imbalance: ofExperts, tokensPerSecond, eta, restarts, spread, result } = job.status;
  const imbalance = spread && html`${spread.imbalance} <small>at primaries alone ${spread.imbalanceAtPrimaries}</small>`;
  return html`<p>${markOf(health)} ${health.message}</p>${facts([
    ["Step", html`${bar(step, steps, undefined)} ${figure(step)} of ${steps}${eta ? html` <small>${eta} left</small>` : undefined}`],
    ["Loss", html`${loss ?? "-"} <small>validation ${validationLoss ?? "-"}</small>`],
    ["Gradient norm", gradientNorm ?? "-"],
    ["Tokens a second", figure(tokensPerSecond)],
    ["Busiest expert over the mean", ofExperts ?? "-"],
    ["Load shares of experts", spread ? html`${spread.expertShares.join(", ")} <small>from the idlest to the busiest</small>` : "-"],
    ["Experts with copies", spread?.copied ?? "-"],
    ["Imbalance of ranks", imbalance ?? "-"],
    ["Waited for experts", spread ? html`${spread.exposedSeconds} s <small>${bytes(spread.bytes)} moved in the last step</small>` : "-"],
    ["Pods that failed", figure(restarts ?? 0)],
    ...(result ? [["Result", result.store] as const] : []),
  ])}`;
}

/** Points at which the curve is interpolated. */
const points = 240;

function lossOf(status: Status): Html {
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

const worldColumns: readonly Column<{ readonly rank: number; readonly pod: string; readonly node: string; readonly state: string }>[] = [
  ["Rank", ({ rank }) => rank, "number"],
  ["Pod", ({ pod }) => pod],
  ["Node", ({ node }) => node],
  ["State", ({ state }) => state],
];

function worldOf({ world }: Status): Html {
  if (!world) return nothing("no world of pods yet");
  const { epoch, since, ranks, leaving = [] } = world;
  const rows = [...ranks.map((one) => ({ ...one, state: "trains" })), ...leaving.map((one) => ({ ...one, state: "leaves" }))];
  const left = rows.length - ranksMax;
  const shown = table("Pods that train together", worldColumns, rows.slice(0, ranksMax));
  return html`<p>World ${epoch} of ${ranks.length} ranks, since ${timeOf(since)}.</p>${shown}${left > 0 ? nothing(`${left} more`) : undefined}`;
}

function endsOf({ lastFailure, lastStop }: Status): Html {
  const ends = Object.entries({ "last failure": lastFailure, "last stop": lastStop });
  const items = ends.flatMap(([what, end]) =>
    end === undefined
      ? []
      : html`<li>${timeOf(end.time)} ${what}: <b>${end.reason}</b> ${end.message} <small>after step ${end.step}</small></li>`,
  );
  return log(items, "no pod has ended before all steps were done");
}
