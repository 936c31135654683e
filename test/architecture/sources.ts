// The texts that the architecture rules look at, and what can be read off one text without a compiler: imports, lines, code
// without comments and strings. Pure but for `readSources`; rules take any list of sources, so that violations can be planted.
import { globSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";

export const root = resolve(import.meta.dirname, "../..");

export interface Source {
  /** The path from the root of the repository. */
  readonly file: string;
  readonly text: string;
}

export interface Import {
  readonly specifier: string;
  /** The file it means, from the root; undefined for packages and node's own modules. */
  readonly target: string | undefined;
  readonly line: number;
}

const generated = "runtime/wire/gen/";

/** Files by pattern, without generated ones. */
export function readSources(pattern: string): Source[] {
  const files = globSync(pattern, { cwd: root }).filter((file) => !file.startsWith(generated));
  return files.sort().map((file) => ({ file, text: readFileSync(join(root, file), "utf8") }));
}

/** The sources of the product, without tests and generated files. */
export const readProduct = (): Source[] => readSources("{crds,operator,runtime}/**/*.{ts,mjs}").filter(({ file }) => !isTest(file));

export const isTest = (file: string): boolean => file.endsWith(".test.ts") || file.startsWith("test/");

export const lineAt = (text: string, index: number): number => text.slice(0, index).split("\n").length;

/**
 * The text with comments and double-quoted strings blanked, line by line where it was. Template strings stay: code may stand in
 * them. A quote within a regular expression ends at its line, so that at most this line is misread.
 */
function codeOf(text: string): string {
  return text.replace(/"(?:[^"\\\n]|\\.)*"|\/\*[\s\S]*?\*\/|\/\/[^\n]*/g, (found) => found.replace(/[^\n]/g, " "));
}

/** The text without comments that stand on lines of their own. */
const uncommented = (text: string): string => text.replace(/^\s*\/\/.*$/gm, (line) => " ".repeat(line.length));

const importPattern =
  /(?:^|\n)\s*(?:import|export)\s[^;]*?from\s+"([^"]+)"|import(?:\.meta\.resolve)?\(\s*"([^"]+)"\s*\)|(?:^|\n)import\s+"([^"]+)"/g;

/** Rules look at the same few hundred sources again for each plant. */
function remembered<T>(read: (source: Source) => T): (source: Source) => T {
  const known = new WeakMap<Source, { readonly value: T }>();
  return (source) => {
    const found = known.get(source) ?? { value: read(source) };
    known.set(source, found);
    return found.value;
  };
}

export const importsOf = remembered(({ file, text }: Source): readonly Import[] => {
  const code = uncommented(text);
  return [...code.matchAll(importPattern)].map((match) => {
    const specifier = match[1] ?? match[2] ?? match[3] ?? "";
    const target = specifier.startsWith(".") ? relative(root, resolve(root, dirname(file), specifier)) : undefined;
    return { specifier, target, line: lineAt(code, match.index + match[0].lastIndexOf(specifier)) };
  });
});

const codeIn = remembered(({ text }) => codeOf(text));

/** The places at which a pattern (with flag g) is found in the code of a source. */
export function findings(source: Source, pattern: RegExp): { readonly line: number; readonly found: string }[] {
  const code = codeIn(source);
  return [...code.matchAll(pattern)].map((match) => ({ line: lineAt(code, match.index + match[0].search(/\S/)), found: match[0].trim() }));
}

/** The longest of the prefixes that a file begins with. */
export const longest = (file: string, prefixes: readonly string[]): string | undefined =>
  prefixes.filter((prefix) => file.startsWith(prefix)).sort((a, b) => b.length - a.length)[0];
