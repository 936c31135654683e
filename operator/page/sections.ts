// Parts shared by the sections of all pages. A section is HTML under an id, the unit of an update. Pure.
import type { Condition } from "../../crds/conditions.ts";
import type { Health } from "../views/health.ts";
import { type Html, html, type Part } from "./html.ts";
import { timeOf } from "./units.ts";

export type Sections = Readonly<Record<string, Html>>;

/** The mark has a word and a form, not only a colour. */
export const markOf = ({ mark, reason }: Health): Html => html`<span class="health ${mark}">${reason}</span>`;

interface Column {
  readonly head: string;
  readonly numeric?: boolean;
}

/** The first cell of a row is its heading. */
export function table(caption: string, columns: readonly Column[], rows: readonly (readonly Part[])[]): Html {
  const classOf = (i: number): string => (columns[i]?.numeric ? "number" : "text");
  const heads = columns.map(({ head }, i) => html`<th scope="col" class="${classOf(i)}">${head}</th>`);
  const body = rows.map((cells) => {
    const made = cells.map((cell, i) =>
      i === 0 ? html`<th scope="row" class="${classOf(i)}">${cell}</th>` : html`<td class="${classOf(i)}">${cell}</td>`,
    );
    return html`<tr>${made}</tr>`;
  });
  return html`<table><caption>${caption}</caption><thead><tr>${heads}</tr></thead><tbody>${body}</tbody></table>`;
}

export const facts = (pairs: readonly (readonly [name: string, value: Part])[]): Html =>
  html`<dl>${pairs.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>\n`)}</dl>`;

export const nothing = (text: string): Html => html`<p class="none">${text}</p>`;

export function conditionsTable(conditions: readonly Condition[]): Html {
  if (conditions.length === 0) return nothing("none yet");
  const rows = conditions.map(({ type, status, reason, message, lastTransitionTime }) => [
    type,
    status,
    reason,
    message,
    timeOf(lastTransitionTime),
  ]);
  return table("Conditions", [{ head: "Condition" }, { head: "Status" }, { head: "Reason" }, { head: "Message" }, { head: "Since" }], rows);
}
