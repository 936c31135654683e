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

type Follows = (each: Import) => boolean;
type Graph = ReadonlyMap<string, readonly Import[]>;

/** The longest chain of imports in a graph; a file outside it ends a chain, and a circle is an error that names its files. */
function deepest(graph: Graph, follows: Follows): readonly string[] {
  const known = new Map<string, readonly string[]>();
  const chain = (file: string, above: readonly string[]): readonly string[] => {
    const found = known.get(file);
    if (found) return found;
    if (above.includes(file)) throw new Error(`imports run in a circle: ${[...above.slice(above.indexOf(file)), file].join(" -> ")}`);
    const tails = (graph.get(file) ?? []).filter((each) => follows(each) && graph.has(each.target));
    const longest = tails.map(({ target }) => chain(target, [...above, file])).sort((a, b) => b.length - a.length)[0] ?? [];
    known.set(file, [file, ...longest]);
    return [file, ...longest];
  };
  return [...graph.keys()].map((file) => chain(file, [])).sort((a, b) => b.length - a.length)[0] ?? [];
}

test("a circle of imports is named", () => {
  const to = (target: string): Import[] => [{ target, typeOnly: false }];
  const graph = new Map([
    ["a", to("b")],
    ["b", to("c")],
    ["c", to("b")],
  ] as const);
  assert.throws(() => deepest(graph, () => true), /in a circle: b -> c -> b/);
});

for (const [what, follows] of [
  ["that exist when the code runs", ({ typeOnly }: Import) => !typeOnly],
  ["with those of types alone", () => true],
] as const) {
  test(`imports inside operator/rebalance, ${what}, are at most ${levelsMax} files deep`, (t) => {
    const found = deepest(imports, follows);
    t.diagnostic(`${found.length}: ${found.join(" -> ")}`);
    assert.ok(found.length > 3, "imports are found");
    assert.ok(found.length <= levelsMax, found.join(" -> "));
  });
}
