// Parts shared by the sections of all pages. A section is HTML under an id, the unit of an update. Pure.
import type { Condition } from "../../crds/conditions.ts";
import type { Health } from "../views/health.ts";
import { type Html, html, type Part } from "./html.ts";
import { timeOf } from "./units.ts";

export type Sections = Readonly<Record<string, Html>>;

/** The mark has a word and a form, not only a colour. */
export const markOf = ({ mark, reason }: Health): Html => html`<span class="health ${mark}">${reason}</span>`;

export type Column<R> = readonly [head: string, of: (row: R) => Part, kind?: "number"];

/** The first cell of a row is its heading. */
export function table<R>(caption: string, columns: readonly Column<R>[], rows: readonly R[]): Html {
  const heads = columns.map(([head, , kind = "text"]) => html`<th scope="col" class="${kind}">${head}</th>`);
  const body = rows.map((row) => {
    const cells = columns.map(([, of, kind = "text"], i) =>
      i === 0 ? html`<th scope="row" class="${kind}">${of(row)}</th>` : html`<td class="${kind}">${of(row)}</td>`,
    );
    return html`<tr>${cells}</tr>`;
  });
  return html`<table><caption>${caption}</caption><thead><tr>${heads}</tr></thead><tbody>${body}</tbody></table>`;
}

export const facts = (pairs: readonly (readonly [name: string, value: Part])[]): Html =>
  html`<dl>${pairs.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>\n`)}</dl>`;

export const nothing = (text: string): Html => html`<p class="none">${text}</p>`;

/** `none` stands in place of an empty list. */
export const log = (items: readonly Html[], none: string): Html =>
  items.length === 0 ? nothing(none) : html`<ol class="log">${items}</ol>`;

const conditionColumns: readonly Column<Condition>[] = [
  ["Condition", ({ type }) => type],
  ["Status", ({ status }) => status],
  ["Reason", ({ reason }) => reason],
  ["Message", ({ message }) => message],
  ["Since", ({ lastTransitionTime }) => timeOf(lastTransitionTime)],
];

export const conditionsTable = (conditions: readonly Condition[] = []): Html =>
  conditions.length === 0 ? nothing("none yet") : table("Conditions", conditionColumns, conditions);
