// The architecture of the sources, by the tables of architecture/rules.ts. The rules read text and need no compiler.
import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { test } from "node:test";
import { allowedImports, clients, clocks, environment, notPure, pureFolders, shared } from "./architecture/rules.ts";

interface Source {
  readonly file: string;
  readonly text: string;
  /** The text with comments and strings blanked, lines kept. */
  readonly code: string;
  readonly imports: readonly { readonly specifier: string; readonly target: string | undefined; readonly where: string }[];
}

const root = resolve(import.meta.dirname, "..");
const linesMax = 400;
const importPattern =
  /(?:^|\n)\s*(?:import|export)\s[^;]*?from\s+"([^"]+)"|import(?:\.meta\.resolve)?\(\s*"([^"]+)"\s*\)|(?:^|\n)import\s+"([^"]+)"/g;
const lineAt = (text: string, index: number): number => text.slice(0, index).split("\n").length;
const isTest = (file: string): boolean => file.endsWith(".test.ts") || file.startsWith("test/");

function read(file: string): Source {
  const text = readFileSync(join(root, file), "utf8");
  const uncommented = text.replace(/^\s*\/\/.*$/gm, (line) => " ".repeat(line.length));
  const imports = [...uncommented.matchAll(importPattern)].map((match) => {
    const specifier = match[1] ?? match[2] ?? match[3] ?? "";
    const target = specifier.startsWith(".") ? relative(root, resolve(root, dirname(file), specifier)) : undefined;
    return { specifier, target, where: `${file}:${lineAt(uncommented, match.index + match[0].lastIndexOf(specifier))}` };
  });
  const code = text.replace(/"(?:[^"\\\n]|\\.)*"|\/\*[\s\S]*?\*\/|\/\/[^\n]*/g, (found) => found.replace(/[^\n]/g, " "));
  return { file, text, code, imports };
}

const all = globSync("{crds,operator,runtime,test}/**/*.{ts,mjs,py}", { cwd: root })
  .filter((file) => !file.startsWith("runtime/net/gen/"))
  .sort()
  .map(read);
const product = all.filter(({ file }) => !isTest(file) && !file.endsWith(".py"));
/** The longest of the prefixes that a file begins with. */
const longest = (file: string, prefixes: readonly string[]): string | undefined =>
  prefixes.filter((prefix) => file.startsWith(prefix)).sort((a, b) => b.length - a.length)[0];
const roomOf = (file: string): string => longest(file, Object.keys(allowedImports)) ?? "";
/** Imports of files of this repository by product code. */
const edges = product.flatMap(({ file, imports }) =>
  imports.flatMap(({ target, where }) => (target === undefined ? [] : [{ file, target, where }])),
);
const packages = product.flatMap(({ file, imports }) =>
  imports
    .filter(({ target, specifier }) => target === undefined && !specifier.startsWith("node:"))
    .map(({ specifier, where }) => ({ file, specifier, where })),
);
/** The places of a pattern (with flag g) in the code of some sources. */
const places = (sources: readonly Source[], pattern: RegExp): string[] =>
  sources.flatMap(({ file, code }) => [...code.matchAll(pattern)].map((m) => `${file}:${lineAt(code, m.index)}: ${m[0].trim()}`));
const pure = product.filter(({ file }) => longest(file, pureFolders) !== undefined && !notPure.includes(file));

test("folders import only what the table allows; what an import needs comes as an argument, lies below both, or gets a row", () => {
  const open = (room: string): string[] => ["crds/", ...(allowedImports[room] ?? "").split(/\s+/).filter((name) => name !== "")];
  const opens = (prefix: string, target: string): boolean => target.startsWith(prefix) && roomOf(target) === roomOf(prefix);
  const homeless = product.filter(({ file }) => roomOf(file) === "").map(({ file }) => `${file} lies in no folder of the table`);
  const forbidden = edges
    .filter(({ file, target }) => roomOf(file) !== roomOf(target) && !open(roomOf(file)).some((prefix) => opens(prefix, target)))
    .map(({ file, target, where }) => `${where}: ${roomOf(file)} may not import ${target}`);
  const dead = Object.keys(allowedImports).filter((room) => !product.some(({ file }) => roomOf(file) === room));
  assert.deepEqual([...homeless, ...forbidden, ...dead.map((room) => `row "${room}" has no file`)], []);
});

test("a file that makes a listening socket bounds its connections", () => {
  const listens = /\bcreate(?:Secure|Adaptor)?Server\b[^;]*\bfrom\b/;
  const own = (file: string) => file.startsWith("operator/cli/"); // on loopback of a person's machine
  const listening = product.filter(({ file, code }) => listens.test(code) && !code.includes("GrpcServer") && !own(file));
  assert.deepEqual(
    listening.filter(({ imports }) => !imports.some(({ target }) => target === "runtime/net/connections.ts")).map(({ file }) => file),
    [],
  );
  assert.ok(listening.length >= 5, "the pattern finds them");
});

test("product code never imports tests", () => {
  assert.deepEqual(
    edges.filter(({ target }) => isTest(target)).map(({ where }) => where),
    [],
  );
});

test("pure folders import nothing of Node, and use no clock, timer or random globals", () => {
  const node = pure.flatMap(({ imports }) => imports.filter(({ specifier }) => specifier.startsWith("node:")).map(({ where }) => where));
  // `new Date(ms)` only turns a number into text.
  const impure =
    /\bDate\.now\b|\bnew Date\(\s*\)|(?<!new )\bDate\(|\bperformance\b|\bset(?:Timeout|Interval|Immediate)\b|\bqueueMicrotask\b|\bAbortSignal\.timeout\b|\bMath\.random\b|(?<![.\w])crypto\b|(?<![.\w])process\.|\bTemporal\.Now\b/g;
  assert.deepEqual([...node, ...places(pure, impure)], []);
});

test("only roots read the environment", () => {
  const others = product.filter(({ file }) => !environment.includes(file));
  const hidden = others.flatMap(({ imports }) => imports.filter(({ specifier }) => specifier === "node:process").map(({ where }) => where));
  assert.deepEqual([...places(others, /\bprocess\.env\b|\}\s*=\s*process\b(?!\.)/g), ...hidden], []);
});

test("the operator asks one clock: stamps that another replica reads are by the API server's time", () => {
  const operator = product.filter(({ file }) => file.startsWith("operator/"));
  const clock = /\bDate\.now\b|\bnew Date\(\s*\)|\bsystemClock\b/g;
  const found = (prefix: string) =>
    places(
      operator.filter(({ file }) => file.startsWith(prefix)),
      clock,
    );
  const others = operator.filter(({ file }) => longest(file, Object.keys(clocks)) === undefined);
  assert.deepEqual([...places(others, clock), ...Object.keys(clocks).filter((prefix) => found(prefix).length === 0)], []);
});

test("each npm client has one importing folder, and each dependency a row", () => {
  const { dependencies, optionalDependencies } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  const rows = { ...Object.fromEntries(Object.entries(clients).map(([name, home]) => [name, [home]])), ...shared };
  const names = Object.keys(rows);
  const homes = (specifier: string): readonly string[] => rows[longest(specifier, names) ?? ""] ?? [];
  const elsewhere = packages.filter(({ file, specifier }) => !homes(specifier).some((home) => file.startsWith(home)));
  const unused = Object.entries(rows).flatMap(([name, folders]) =>
    folders
      .filter((home) => !packages.some(({ file, specifier }) => specifier.startsWith(name) && file.startsWith(home)))
      .map((home) => `nothing in ${home} imports ${name}`),
  );
  const unlisted = Object.keys({ ...dependencies, ...optionalDependencies }).filter((name) => longest(name, names) === undefined);
  assert.deepEqual([...elsewhere.map(({ where, specifier }) => `${where}: imports ${specifier}`), ...unused, ...unlisted], []);
});

test("imports form no cycle", () => {
  const targets = Map.groupBy(edges, ({ file }) => file);
  const done = new Set<string>();
  const cycles: string[] = [];
  const visit = (file: string, path: readonly string[]): void => {
    if (done.has(file)) return;
    for (const { target } of targets.get(file) ?? []) {
      const seen = [...path, file];
      if (seen.includes(target)) cycles.push([...seen.slice(seen.indexOf(target)), target].join(" -> "));
      else visit(target, seen);
    }
    done.add(file);
  };
  for (const { file } of product) visit(file, []);
  assert.deepEqual(cycles, []);
});

test(`files have at most ${linesMax} lines`, () => {
  const long = all.map(({ file, text }) => ({ file, lines: text.split("\n").length - 1 })).filter(({ lines }) => lines > linesMax);
  assert.deepEqual(long, []);
});

/**
 * It compares names, without a compiler: a field that shares its name with one that is used passes. A dead field is dropped, and its
 * number and name reserved.
 */
test("every field of the wire is written and read", () => {
  const code = product
    .filter(({ file, text }) => file.startsWith("runtime/net/") || file === "crds/plan.ts" || /from "[^"]*net\//.test(text))
    .map(({ text }) => text.replace(/\/\/[^\n]*/g, ""));
  const unused = globSync("runtime/net/proto/**/*.proto", { cwd: root }).flatMap((file) => {
    const proto = readFileSync(join(root, file), "utf8").replace(/\/\/[^\n]*/g, "");
    const fields = [...proto.matchAll(/^message (\w+) \{([\s\S]*?)^\}/gm)].flatMap(([, message = "", body = ""]) =>
      [...body.matchAll(/^\s*(?:repeated |optional )?[\w.]+ (\w+) = \d+;/gm)].map(([, field = ""]) => ({ message, field })),
    );
    return fields.flatMap(({ message, field }) => {
      const name = field.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase());
      const written = new RegExp(`(?<![.\\w])${name}(?::|,| \\}|\\s*$)|case: "${name}"`, "m");
      const readAs = new RegExp(
        `\\.${name}\\b|\\{[^{}]*\\b${name}\\b[^{}]*\\}[^=;{}]*(?:=[^>]|\\bof\\b)|\\(\\{[^{}]*\\b${name}\\b[^{}]*\\}|case\\s*(?:===)?\\s*"${name}"|\\.case === "${name}"`,
      );
      return [
        ...(code.some((text) => written.test(text)) ? [] : [`nobody writes ${message}.${field}`]),
        ...(code.some((text) => readAs.test(text)) ? [] : [`nobody reads ${message}.${field}`]),
      ];
    });
  });
  assert.deepEqual(unused, []);
});
