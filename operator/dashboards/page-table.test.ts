import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { dashboards } from "./dashboards.ts";

const page = readFileSync(new URL("../docs/monitoring.md", import.meta.url), "utf8");
const section = page.slice(page.indexOf("\n### Panels that the page has too"));

/** The names in both columns of a dashboard's row. */
const told = (dashboard: string): string[] =>
  [...section.matchAll(/^\| (\w+) \| (.*) \| (.*) \|$/gm)]
    .filter(([, name = ""]) => name.toLowerCase() === dashboard)
    .flatMap(([, , has = "", hasNot = ""]) => [has, hasNot].flatMap((names) => names.split("; ")))
    .sort();

for (const [name, build] of Object.entries(dashboards))
  test(`the guide tells of each panel of the dashboard ${name} once whether the page has it`, () => {
    const titles = (build().panels ?? []).flatMap(({ type, title }: { type: string; title?: string }) =>
      type === "row" ? [] : (title ?? []),
    );
    assert.ok(titles.length > 10);
    assert.deepEqual(told(name), [...new Set(titles)].sort());
  });
