// The sections of one training job's page. Pure.

import { bytes, figure } from "../views/format.ts";
import { bar, chart } from "./chart.ts";
import { type Html, html } from "./html.ts";
import { conditionsTable, facts, markOf, nothing, type Sections, table } from "./sections.ts";
import { timeOf } from "./units.ts";
import type { JobView } from "./view-job.ts";

const ranksMax = 256;

export function jobSections(view: JobView): Sections {
  return { head: headOf(view), loss: lossOf(view), world: worldOf(view), ends: endsOf(view), conditions: conditionsTable(view.conditions) };
}

function headOf({ state: { health, step, steps }, figures }: JobView): Html {
  const { loss, validationLoss, gradientNorm, imbalance: ofExperts, tokensPerSecond, eta, restarts, spread, result } = figures;
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

function lossOf({ curve }: JobView): Html {
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

function worldOf({ world }: JobView): Html {
  if (!world) return nothing("no world of pods yet");
  const { epoch, since, ranks, leaving = [] } = world;
  const rows = [
    ...ranks.map(({ rank, pod, node }) => [rank, pod, node, "trains"]),
    ...leaving.map(({ rank, pod, node }) => [rank, pod, node, "leaves"]),
  ];
  const columns = [{ head: "Rank", numeric: true }, { head: "Pod" }, { head: "Node" }, { head: "State" }];
  const left = rows.length - ranksMax;
  return html`<p>World ${epoch} of ${ranks.length} ranks, since ${timeOf(since)}.</p>${table("Pods that train together", columns, rows.slice(0, ranksMax))}${
    left > 0 ? nothing(`${left} more`) : undefined
  }`;
}

function endsOf({ ends }: JobView): Html {
  if (ends.length === 0) return nothing("no pod has ended before all steps were done");
  const items = ends.map(
    ([what, { time, reason, message, step }]) =>
      html`<li>${timeOf(time)} ${what}: <b>${reason}</b> ${message} <small>after step ${step}</small></li>`,
  );
  return html`<ol class="log">${items}</ol>`;
}
