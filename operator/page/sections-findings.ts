// What is wrong with one deployment or job, as `enodia status` says it: the cause, its evidence and the first command. Pure.
import type { Finding, Observed, Unread } from "../views/findings/finding.ts";
import { judge, summaryOf } from "../views/findings/index.ts";
import { type Html, html } from "./html.ts";
import { nothing } from "./sections.ts";

/** The worst; `enodia status` has the others. */
export const findingsShown = 8;

const marks = { critical: ["wrong", "Critical"], warning: ["wrong", "Warning"], info: ["idle", "Info"] } as const;

/** `all`: the command that has every finding. */
export function findingsHtml(observed: Observed, all: string): Html {
  const { findings, left } = judge(observed);
  const more = left + Math.max(0, findings.length - findingsShown);
  return html`<p><b>${summaryOf(findings)}</b></p>
<ol class="findings">${findings.slice(0, findingsShown).map(findingHtml)}</ol>${more > 0 ? nothing(`${more} more: ${all}`) : undefined}${observed.unread.map(unreadHtml)}`;
}

function findingHtml({ severity, what, why, effect, remedy }: Finding): Html {
  const [mark, name] = marks[severity];
  const so = effect === undefined ? undefined : html`<p><small>so</small> ${effect}</p>`;
  return html`<li><p><span class="health ${mark}">${name}</span> <b>${what}</b></p><p><small>why</small> ${why}</p>${so}<pre tabindex="0">${remedy}</pre></li>\n`;
}

const unreadHtml = ({ what, why }: Unread): Html => nothing(`Not looked at, so nothing is said of it: ${what}: ${why}`);
