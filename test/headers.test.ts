// The law of comments: a file's header is a sentence that says what the file is, a file that a comment names exists, and a comment is
// no wider than code. Reads sources as text; imports and folders are test/architecture.test.ts's.
import assert from "node:assert/strict";
import { existsSync, globSync, readFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { test } from "node:test";

const root = resolve(import.meta.dirname, "..");
const roots = ["crds", "operator", "runtime", "test", "charts"];
/** Generated code is not read. */
const unread = "runtime/wire/gen/";
/** Columns of a line; the formatter keeps code to as many (.biome.json) and leaves comments alone. */
const columnsMax = 140;

/** Words that open a question or go on from a line above: a header that begins with one reads only with the file's name before it. */
const openers =
  /^(What|Which|How|Whether|Where|When|Who|Whose|Whom|Why|That|Those|Of|As|By|From|For|In|With|And|Or|So|Since|While|Until)\b/;
/** Anything that may be a path, patterns such as `<name>.ts` and `*.test.ts` included. */
const token = /[\w./*<>@-]*\w/g;
const sourceFile = /\w\.(ts|mjs)$/;
const belowRoot = new RegExp(`^(${roots.join("|")})/\\w`);

interface Fault {
  readonly line: number;
  readonly message: string;
}

interface Comment {
  readonly line: number;
  readonly text: string;
}

const files = globSync(`{${roots.join(",")}}/**/*.{ts,mjs}`, { cwd: root }).filter(
  (path) => !path.includes("node_modules/") && !path.startsWith(unread),
);

/** The comments of a source: blocks, and runs of `//` lines. What follows code on its line is one, too. */
function commentsOf(source: string): Comment[] {
  const found: Comment[] = [];
  let open: { readonly line: number; text: string; readonly block: boolean } | undefined;
  const close = (): void => {
    if (open) found.push({ line: open.line, text: open.text.trim() });
    open = undefined;
  };
  source.split("\n").forEach((raw, i) => {
    const line = raw.trim();
    if (open?.block) {
      open.text += ` ${line
        .replace(/\*\/.*$/, "")
        .replace(/^\*/, "")
        .trim()}`;
      if (line.includes("*/")) close();
    } else if (line.startsWith("/*")) {
      close();
      open = { line: i + 1, text: line.replace(/^\/\*\*?/, "").replace(/\*\/.*$/, ""), block: true };
      if (line.includes("*/")) close();
    } else if (line.startsWith("//")) {
      open ??= { line: i + 1, text: "", block: false };
      open.text += ` ${line.slice(2).trim()}`;
    } else {
      close();
      const after = /[;,{})\]] \/\/ (.*)$/.exec(line);
      if (after) found.push({ line: i + 1, text: after[1] ?? "" });
    }
  });
  close();
  return found;
}

/** Lines that are comment alone. */
function wideLines(source: string): Fault[] {
  return source.split("\n").flatMap((text, i) => {
    const wide = text.length > columnsMax && /^\s*(\/\/|\/\*|\*)/.test(text);
    return wide ? [{ line: i + 1, message: `comment of ${text.length} columns, ${columnsMax} at most` }] : [];
  });
}

/** The comment that a file begins with, after the line that names its interpreter. */
function headerOf(source: string): Comment | undefined {
  const [first] = commentsOf(source);
  const before = source.split("\n").slice(0, (first?.line ?? 1) - 1);
  return before.every((line) => line === "" || line.startsWith("#!")) ? first : undefined;
}

/** True when the path exists from the file's own folder or from one above it, as far as the root. */
function resolves(path: string, from: string): boolean {
  for (let folder = dirname(from); ; folder = dirname(folder)) {
    if (existsSync(join(root, folder, path))) return true;
    if (folder === ".") return false;
  }
}

function faultsOf(path: string, source: string): Fault[] {
  const faults = wideLines(source);
  const header = headerOf(source);
  const opener = header && openers.exec(header.text)?.[0];
  if (header && opener) faults.push({ line: header.line, message: `header opens with "${opener}"` });
  for (const { line, text } of commentsOf(source)) {
    const named = (text.match(token) ?? []).filter((name) => (sourceFile.test(name) || belowRoot.test(name)) && !/[*<>]/.test(name));
    for (const name of named) if (!resolves(name, path)) faults.push({ line, message: `names ${name}, which is not there` });
  }
  return faults;
}

test("headers say what a file is, comments name files that exist, and none is wider than code", () => {
  assert.ok(files.length > 500, `${files.length} sources found`);
  const found = files.flatMap((path) =>
    faultsOf(path, readFileSync(join(root, path), "utf8")).map(({ line, message }) => `${path}:${line} ${message}`),
  );
  assert.deepEqual(found, []);
});

const code = "export const one = 1;\n";
const planted: Readonly<Record<string, { readonly source: string; readonly want: readonly string[] }>> = {
  "a header that opens with a question word": { source: `// Whether it fits. Pure.\n${code}`, want: ['header opens with "Whether"'] },
  "a header that goes on from the file's name": { source: `/** Of a rank. */\n${code}`, want: ['header opens with "Of"'] },
  "a question word below an interpreter line": { source: `#!/usr/bin/env node\n// How it starts.\n`, want: ['header opens with "How"'] },
  "a question word in another comment": { source: `// The parts of it.\n${code}// What cannot work is said.\n`, want: [] },
  "a file beside it": { source: `// Called by main.ts.\n${code}`, want: [] },
  "a file in a folder above": { source: `// Called by deployment/plane.ts; not operator/rbac.ts.\n${code}`, want: [] },
  "a file that is gone, in a header": { source: `// Called by boot.ts.\n${code}`, want: ["names boot.ts, which is not there"] },
  "a file that is gone, in a block": {
    source: `// The parts.\n${code}/**\n * Told by\n * kube/gone.ts, twice.\n */\n`,
    want: ["names kube/gone.ts, which is not there"],
  },
  "a file that is gone, after code": {
    source: `// The parts.\nrun(); ${"//"} see gone.mjs\n`,
    want: ["names gone.mjs, which is not there"],
  },
  "a folder that is gone": { source: `// The door of runtime/gone.\n${code}`, want: ["names runtime/gone, which is not there"] },
  "a header wider than code": {
    source: `// The parts of it, ${"and more ".repeat(14)}.\n${code}`,
    want: ["comment of 147 columns, 140 at most"],
  },
  "a wide line in a block": {
    source: `// The parts.\n/**\n${" ".repeat(4)}* ${"a".repeat(135)}\n */\n${code}`,
    want: ["comment of 141 columns, 140 at most"],
  },
  "lines as wide as code, and wide code": { source: `// ${"a".repeat(137)}\nexport const s = "${"a".repeat(200)}";\n`, want: [] },
  "patterns and other people's files": { source: `// Runs *.test.ts, <family>.ts and their mapping.py.\n${code}`, want: [] },
};
for (const [name, { source, want }] of Object.entries(planted))
  test(`planted: ${name}`, () => {
    assert.deepEqual(
      faultsOf("operator/main.ts", source).map(({ message }) => message),
      want,
    );
  });
