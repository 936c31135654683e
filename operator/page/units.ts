// Times and links of the page. Pure.
import { type Html, html } from "./html.ts";

/** The script converts it to the reader's time zone. */
export const timeOf = (iso: string): Html => html`<time datetime="${iso}">${iso.replace("T", " ").replace(/(\.\d+)?Z$/, " UTC")}</time>`;

/** Relative, so that it works behind any proxy: all pages are in one folder. */
export const linkTo = (page: string, query: Readonly<Record<string, string | undefined>>): string => {
  const set = Object.entries(query).flatMap(([name, value]): [string, string][] => (value === undefined ? [] : [[name, value]]));
  return `./${page}${set.length === 0 ? "" : `?${new URLSearchParams(set)}`}`;
};
