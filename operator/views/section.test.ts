import assert from "node:assert/strict";
import { test } from "node:test";
import { sectionsText } from "../cli/table.ts";
import { sectionHtml } from "../page/sections.ts";
import { bar, facts, list, message, note, type Section, strong, table, time, type Value } from "./section.ts";

const link: Value = { as: "link", text: "ns/moe", page: "deployment", namespace: "ns", name: "moe" };
const rows = [
  { name: link, load: 104 },
  { name: "<b>\u001b[2Jgone", load: undefined },
  { name: "left out", load: 1 },
];
const columns = [
  ["Name", ({ name }: (typeof rows)[number]) => name],
  ["Load", ({ load }: (typeof rows)[number]) => load && [bar(load, 200, 100), `${load}%`]],
] as const;
const barHtml = sectionHtml(message(bar(104, 200, 100))).text.replace(/<\/?p>/g, "");

/** Of each kind: the section, its text, and its HTML. */
const goldens: Readonly<Record<string, readonly [section: Section, text: string, html: string]>> = {
  "a message": [
    message({ as: "mark", text: "Serving", mark: "well" }, "all ranks <serve>"),
    "Serving all ranks <serve>",
    '<p><span class="health well">Serving</span> all ranks &lt;serve&gt;</p>',
  ],
  "facts, without the unknown one; punctuation stands close": [
    facts(
      ["Model", ["pvc://m/x", note("not opened yet")]],
      ["Image", undefined],
      ["Move", [time("2026-03-01T10:00:00Z"), ": to", strong("rank 1")]],
    ),
    "model      pvc://m/x (not opened yet)\nmove       2026-03-01T10:00:00Z: to rank 1",
    `<dl><div><dt>Model</dt><dd>pvc://m/x <small>not opened yet</small></dd></div>
<div><dt>Move</dt><dd><time datetime="2026-03-01T10:00:00Z">2026-03-01 10:00:00 UTC</time>: to <b>rank 1</b></dd></div>\n</dl>`,
  ],
  "a table: figures on the right, foreign text steers nothing, what is unknown is a dash": [
    table(columns, rows, { caption: "All & more", max: 2 }),
    "NAME         LOAD\nns/moe       104%\n<b> [2Jgone     -\n1 more",
    `<table><caption>All &amp; more</caption><thead><tr><th scope="col" class="text">Name</th><th scope="col" class="number">Load</th></tr></thead><tbody><tr><th scope="row" class="text" data-head="Name"><a id="d-ns-moe" href="./deployment?namespace=ns&amp;name=moe">ns/moe</a></th><td class="number" data-head="Load">${barHtml} 104%</td></tr><tr><th scope="row" class="text" data-head="Name">&lt;b&gt;\u001b[2Jgone</th><td class="number" data-head="Load">-</td></tr></tbody></table><p class="none">1 more</p>`,
  ],
  "a table of nothing": [table(columns, [], { caption: "c", none: "no rank" }), "no rank", '<p class="none">no rank</p>'],
  "a list": [list([["a", note("b")]], "none"), "  a (b)", '<ol class="log"><li>a <small>b</small></li>\n</ol>'],
  "a list of nothing": [list([], "none"), "none", '<p class="none">none</p>'],
};
for (const [name, [section, text, html]] of Object.entries(goldens))
  test(`text and HTML of ${name}`, () => {
    assert.equal(sectionsText([section]), text);
    assert.equal(sectionHtml(section).text, html);
  });

test("a blank line stands beside tables and lists, and none below a message", () => {
  const all = [
    message("m"),
    facts(["F", 1]),
    list(["l"], ""),
    table(columns, [], { caption: "", none: "t" }),
    message("m"),
    list(["l"], ""),
  ];
  assert.equal(sectionsText(all), "m\nf          1\n\n  l\n\nt\n\nm\n  l");
});
