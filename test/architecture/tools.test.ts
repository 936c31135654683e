// Planted violations for the limits that Biome and knip count with the settings of this repository: parameters, lines of a function,
// types that are exported and used by nobody else. `npm run check` runs the tools on this repository; this shows that they look.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { root } from "./sources.ts";

/** The JSON that a tool prints about a folder of these files, with our settings. */
function report(tool: string, argv: readonly string[], files: Readonly<Record<string, string>>): any {
  const folder = mkdtempSync(join(tmpdir(), "enodia-planted-"));
  try {
    for (const settings of [".biome.json", ".knip.json", ".gitignore", "tsconfig.json"])
      cpSync(join(root, settings), join(folder, settings));
    for (const [file, text] of Object.entries({ "package.json": '{ "name": "planted", "type": "module" }', ...files })) {
      mkdirSync(join(folder, dirname(file)), { recursive: true });
      writeFileSync(join(folder, file), text);
    }
    const done = spawnSync(process.execPath, [join(root, "node_modules", tool), ...argv, "--reporter=json"], {
      cwd: folder,
      encoding: "utf8",
    });
    assert.equal(done.status, 1, `${done.stdout}${done.stderr}`);
    return JSON.parse(done.stdout);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** A function whose braces hold so many lines. */
const functionOf = (lines: number): string => `export function run() {\n${"  go();\n".repeat(lines)}}\n`;

test("planted: at most four parameters; at most 60 lines a function, 80 where a root constructs", () => {
  const { diagnostics } = report("@biomejs/biome/bin/biome", ["lint"], {
    "runtime/text/four.ts": "export const run = (a: 1, b: 1, c: 1, d: 1) => [a, b, c, d];\n",
    "runtime/text/five.ts": "export const run = (a: 1, b: 1, c: 1, d: 1, e: 1) => [a, b, c, d, e];\n",
    "runtime/text/short.ts": functionOf(60),
    "runtime/text/long.ts": functionOf(61),
    "runtime/worker/worker.ts": functionOf(80),
    "runtime/gateway/gateway.ts": functionOf(81),
  });
  const found = diagnostics.map(({ category, location }: any) => `${location.path}: ${category}`).toSorted();
  assert.deepEqual(found, [
    "runtime/gateway/gateway.ts: lint/complexity/noExcessiveLinesPerFunction",
    "runtime/text/five.ts: lint/complexity/useMaxParams",
    "runtime/text/long.ts: lint/complexity/noExcessiveLinesPerFunction",
  ]);
});

test("planted: exports that only their own file uses are found, types too", () => {
  const types = "export type Known = number;\nexport type Unknown = number;\nexport interface Inner {\n  a: Unknown;\n}\n";
  const { issues } = report("knip/bin/knip.js", ["--no-progress"], {
    "runtime/main.ts": 'import { known, type Known } from "./planted.ts";\nexport const main: Known = known;\n',
    "runtime/planted.ts": `${types}export const known: Known = 1;\nexport const inner: Inner = { a: known };\n`,
  });
  const planted = issues.find(({ file }: any) => file === "runtime/planted.ts");
  const names = (kind: "exports" | "types"): string[] => planted[kind].map(({ name }: any) => name);
  assert.deepEqual([names("exports"), names("types")], [["inner"], ["Unknown", "Inner"]]);
});
