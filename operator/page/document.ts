// HTML documents: a page, a standby's page and the sign-in. Addresses are relative. Pure.
import { type Html, html } from "./html.ts";
import type { Page, Panel } from "./pages.ts";
import type { Sections } from "./sections.ts";
import { linkTo } from "./units.ts";

export const styleFile = "page.css";
export const scriptFile = "page.js";

interface Frame {
  readonly title: string;
  /** Address of its event stream; unset = static. */
  readonly events?: string;
  readonly body: Html;
}

function framed({ title, events, body }: Frame): string {
  const at = events === undefined ? html`` : html` data-events="${events}"`;
  return html`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>${title} - Enodia</title><link rel="icon" href="data:,"><link rel="stylesheet" href="./${styleFile}"><script type="module" src="./${scriptFile}"></script></head>
<body${at}><a class="skip" href="#main">Skip to the content</a>
<header><a class="brand" href="./">Enodia</a> <span id="live" role="status"></span> <button id="theme" type="button" hidden>Theme</button></header>
<main id="main"><h1>${title}</h1>
${body}</main></body></html>
`.text;
}

/** Tables scroll within their panel, also by keyboard. */
function panelOf({ heading, sections, map }: Panel, made: Sections, index: number): Html {
  const parts = sections.map((id) => html`<div class="section" id="s-${id}">${made[id]}</div>\n`);
  return html`<section class="panel" aria-labelledby="h-${index}"><h2 id="h-${index}">${heading}</h2>
<div class="scroll" role="region" aria-labelledby="h-${index}" tabindex="0">${parts}</div>${map ? mapFrame : undefined}</section>
`;
}

const mapFrame = html`<div class="map"><canvas id="map" tabindex="0" role="img" aria-label="Map of experts and ranks" aria-describedby="map-help"></canvas>
<p id="map-cell" aria-live="polite"></p>
<p id="map-help" class="none">A row is a rank (P: for prefill, D: for decode), a column an expert; the stronger its colour, the more rows the rank computes for it. A frame is a copy that comes, a cross one that goes. Arrow keys walk through the cells.</p>
<noscript><p>The map needs the script of this page.</p></noscript></div>`;

export function pageDocument(page: Page, name: string, query: URLSearchParams): string {
  const events = linkTo("events", { ...Object.fromEntries(query), page: name });
  const panels = page.panels.map((panel, i) => panelOf(panel, page.sections, i));
  return framed({ title: page.title, events, body: html`${page.above}<div class="panels">${panels}</div>` });
}

const standbyText = (leader: string | undefined): Html =>
  leader === undefined
    ? html`<p>No replica leads at this moment, so that nothing is known here. This page tries again by itself.</p>`
    : html`<p>This replica does not lead, and knows no placement; <b>${leader}</b> leads. By the Service this page finds it by itself. With a forwarded port:</p>
<pre tabindex="0">kubectl port-forward pod/${leader} ...</pre>`;

/** DECISIONS.md 4. */
export function standbyDocument(leader: string | undefined, name: string, query: URLSearchParams): string {
  const events = linkTo("events", { ...Object.fromEntries(query), page: name });
  return framed({ title: "This replica waits", events, body: standbyText(leader) });
}

interface SignIn {
  readonly charsMax: number;
  readonly help: string;
}

export function signInDocument({ charsMax, help }: SignIn, problem: string | undefined): string {
  const alert = problem === undefined ? html`` : html`<p id="problem" role="alert">${problem}</p>`;
  return framed({
    title: "Sign in",
    body: html`<form class="sign-in" method="post" action="./sign-in">${alert}<label for="token">Token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required maxlength="${charsMax}"${problem === undefined ? html`` : html` aria-describedby="problem"`}>
<button>Sign in</button><p class="none">${help}</p></form>`,
  });
}
