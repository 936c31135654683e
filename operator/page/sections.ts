// Sections of views as HTML under ids, the units of an update. Pure.
import { areFigures, gapBefore, type Inline, partsOf, type Section, type Table, textOf, type Value } from "../views/section.ts";
import { bar } from "./chart.ts";
import { type Html, html } from "./html.ts";
import { linkTo, timeOf } from "./units.ts";

export type Sections = Readonly<Record<string, Html>>;

const shown = (value: Value): Html =>
  html`${partsOf(value).map((part, i) => html`${i === 0 ? "" : gapBefore(textOf(part))}${inline(part)}`)}`;

function inline(part: string | Inline): Html {
  if (typeof part === "string") return html`${part}`;
  switch (part.as) {
    case "note":
      return html`<small>${part.text}</small>`;
    case "strong":
      return html`<b>${part.text}</b>`;
    case "time":
      return timeOf(part.text);
    case "state":
      return html`<span class="state ${part.text}">${part.text}</span>`;
    case "cut":
      return html`<span class="cut">${part.text}</span>`;
    case "mark": // has a word and a form, not only a colour
      return html`<span class="health ${part.mark}">${part.text}</span>`;
    case "link": {
      const { page, namespace, name, text } = part;
      return html`<a id="${page[0]}-${namespace}-${name}" href="${linkTo(page, { namespace, name })}">${text}</a>`;
    }
    case "bar":
      return bar(part.part, part.scale, part.bound);
  }
}

export function sectionHtml(section: Section): Html {
  switch (section.kind) {
    case "message":
      return html`<p>${shown(section.value)}</p>`;
    case "list":
      if (section.items.length === 0) return nothing(section.none);
      return html`<ol class="log">${section.items.map((item) => html`<li>${shown(item)}</li>\n`)}</ol>`;
    case "facts":
      return html`<dl>${section.facts.map(([name, value]) => html`<div><dt>${name}</dt><dd>${shown(value)}</dd></div>\n`)}</dl>`;
    case "table":
      if (section.rows.length === 0) return nothing(section.none);
      return html`${tableOf(section)}${section.more === undefined ? undefined : nothing(section.more)}`;
  }
}

/** The first cell of a row is its heading. */
function tableOf({ caption, heads, rows }: Table): Html {
  const kinds = heads.map((_, i) => (areFigures(rows.map((row) => textOf(row[i]) || "-")) ? "number" : "text"));
  const cellOf = (value: Value, i: number): Html => {
    const text = textOf(value) === "" ? html`-` : shown(value);
    const about = html`class="${kinds[i]}" data-head="${heads[i]}"`;
    return i === 0 ? html`<th scope="row" ${about}>${text}</th>` : html`<td ${about}>${text}</td>`;
  };
  const above = heads.map((head, i) => html`<th scope="col" class="${kinds[i]}">${head}</th>`);
  const body = rows.map((row) => html`<tr>${row.map(cellOf)}</tr>`);
  return html`<table><caption>${caption}</caption><thead><tr>${above}</tr></thead><tbody>${body}</tbody></table>`;
}

export const nothing = (text: string): Html => html`<p class="none">${text}</p>`;
