// The depth of the imports inside operator/rebalance, counted in files of the longest chain: a reader has to open no more than these,
// one after another, to reach the ground. `node --test operator/rebalance/depth.test.ts` prints both chains.
import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import { test } from "node:test";

const levelsMax = 7;
const files = globSync("**/*.ts", { cwd: import.meta.dirname }).filter((file) => !file.endsWith(".test.ts"));

interface Import {
  readonly target: string;
  /** True for an import of types only, which is gone when the code runs. */
  readonly typeOnly: boolean;
}

function importsOf(file: string): Import[] {
  const text = readFileSync(join(import.meta.dirname, file), "utf8").replace(/^\s*\/\/.*$/gm, "");
  return [...text.matchAll(/(?:^|\n)(?:import|export)\s+([^;"]*?)\s*from\s+"(\.[^"]+)"/g)].map(([, names = "", from = ""]) => {
    const inBraces = /^\{([^}]*)\}$/.exec(names.trim())?.[1]?.split(",") ?? [""];
    const typeOnly =
      names.startsWith("type ") || (inBraces.join("").trim() !== "" && inBraces.every((name) => /^\s*(type\s|$)/.test(name)));
    return { target: normalize(join(dirname(file), from)), typeOnly };
  });
}

const imports = new Map(files.map((file) => [file, importsOf(file)]));

/** The longest chain of imports that begins at a file; a file outside the folder ends it. */
function chain(file: string, follows: (each: Import) => boolean, known = new Map<string, readonly string[]>()): readonly string[] {
  const found = known.get(file);
  if (found) return found;
  const tails = (imports.get(file) ?? []).filter((each) => follows(each) && imports.has(each.target));
  const longest = tails.map(({ target }) => chain(target, follows, known)).sort((a, b) => b.length - a.length)[0] ?? [];
  known.set(file, [file, ...longest]);
  return [file, ...longest];
}

const deepest = (follows: (each: Import) => boolean): readonly string[] =>
  files.map((file) => chain(file, follows)).sort((a, b) => b.length - a.length)[0] ?? [];

for (const [what, follows] of [
  ["that exist when the code runs", ({ typeOnly }: Import) => !typeOnly],
  ["with those of types alone", () => true],
] as const) {
  test(`imports inside operator/rebalance, ${what}, are at most ${levelsMax} files deep`, (t) => {
    const found = deepest(follows);
    t.diagnostic(`${found.length}: ${found.join(" -> ")}`);
    assert.ok(found.length > 3, "imports are found");
    assert.ok(found.length <= levelsMax, found.join(" -> "));
  });
}
