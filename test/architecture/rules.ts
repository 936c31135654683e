// The architecture as rules: each takes sources (and the tables of law.ts, or others) and returns what breaks it, as lines that
// name file, line and remedy. Pure, so that each can be shown a planted violation; architecture.test.ts runs them on the house.
import * as tables from "./law.ts";
import { findings, type Import, importsOf, isTest, lineAt, longest, type Source } from "./sources.ts";

export type Rule = (sources: readonly Source[]) => string[];

/** The most lines of a file; one with more does more than one thing. */
export const linesMax = 400;

const at = (file: string, line: number, what: string): string => `${file}:${line}: ${what}`;

/** Every import of a file of this repository, with the file it stands in. */
const within = (sources: readonly Source[]): { readonly file: string; readonly target: string; readonly line: number }[] =>
  sources.flatMap((source) =>
    importsOf(source).flatMap(({ target, line }) => (target === undefined ? [] : [{ file: source.file, target, line }])),
  );

const packagesOf = (source: Source): Import[] =>
  importsOf(source).filter(({ target, specifier }) => target === undefined && !specifier.startsWith("node:"));

export const everyFileHasARoom =
  (law = tables.law): Rule =>
  (sources) =>
    sources
      .filter(({ file }) => longest(file, Object.keys(law)) === undefined)
      .map(({ file }) => at(file, 1, "lies in no folder of the law: move it, or give its folder a row in test/architecture/law.ts"));

/** Files of one row may import each other; a row opens the rooms that it names, and none that lie within those. */
export const importsKeepTheLaw =
  (law = tables.law): Rule =>
  (sources) => {
    const roomOf = (file: string): string => longest(file, Object.keys(law)) ?? "";
    return within(sources)
      .filter(({ file, target }) => {
        const room = roomOf(file);
        return roomOf(target) !== room && !(law[room] ?? []).some((prefix) => opens(prefix, target, roomOf));
      })
      .map(({ file, target, line }) =>
        at(
          file,
          line,
          `${roomOf(file)} may not import ${target}: take it as an argument, move it below both, or change the row with a reason`,
        ),
      );
  };

const opens = (prefix: string, target: string, roomOf: (file: string) => string): boolean =>
  target.startsWith(prefix) && roomOf(target) === roomOf(prefix);

/** A row that nothing needs permits what nobody decided. */
export const everyRowIsAlive =
  (law = tables.law, planned = tables.planned): Rule =>
  (sources) => {
    const roomOf = (file: string): string => longest(file, Object.keys(law)) ?? "";
    const imports = within(sources).map(({ file, target }) => ({ from: roomOf(file), target, to: roomOf(target) }));
    const inhabitants = new Set(sources.map(({ file }) => roomOf(file)));
    const unknown = Object.keys(planned).filter((room) => !(room in law));
    const lost = unknown.map((room) => `test/architecture/law.ts: "${room}" is planned and has no row: drop it from the list "planned"`);
    const dead = Object.entries(law).flatMap(([room, allowed]) => {
      const row = `test/architecture/law.ts: row "${room}"`;
      const inhabited = inhabitants.has(room);
      if (room in planned) return inhabited ? [`${row} has files now: take it off the list "planned"`] : [];
      if (!inhabited) return [`${row} has no file: drop the row, or list it in "planned" with a reason`];
      return allowed
        .filter((prefix) => !imports.some(({ from, target, to }) => from === room && to === roomOf(prefix) && target.startsWith(prefix)))
        .map((prefix) => `${row} allows "${prefix}", which no file imports: drop it from the row`);
    });
    return [...dead, ...lost];
  };

const isPure = (file: string): boolean => longest(file, tables.pureFolders) !== undefined && !(file in tables.notPure);

export const pureFoldersImportNothingOfNode: Rule = (sources) =>
  sources
    .filter(({ file }) => isPure(file))
    .flatMap((source) =>
      importsOf(source)
        .filter(({ specifier }) => specifier.startsWith("node:"))
        .map(({ specifier, line }) => at(source.file, line, `a pure folder imports ${specifier}: take what it gives as an argument`)),
    );

/** `new Date(ms)` only turns a number into text, and is free. */
const clockOrRandom =
  /\bDate\.now\b|\bnew Date\(\s*\)|(?<!new )\bDate\(|\bperformance\b|\bset(?:Timeout|Interval|Immediate)\b|\bqueueMicrotask\b|\bAbortSignal\.timeout\b|\bMath\.random\b|(?<![.\w])crypto\b|(?<![.\w])process\.|\bTemporal\.Now\b/g;

export const pureFoldersHaveNoClockAndNoRandom: Rule = (sources) =>
  sources
    .filter(({ file }) => isPure(file))
    .flatMap((source) =>
      findings(source, clockOrRandom).map(({ line, found }) =>
        at(source.file, line, `a pure folder uses ${found}: take the time, the timer or the number as an argument`),
      ),
    );

/** Finds a thing done elsewhere than `where` allows; and a file that may do it and does not, since the table is out of date then. */
function onlyWhere(sources: readonly Source[], what: string, pattern: RegExp, where: Readonly<Record<string, string>>): string[] {
  const found = sources.map((source) => ({ file: source.file, places: findings(source, pattern) }));
  const elsewhere = found
    .filter(({ file }) => !(file in where))
    .flatMap(({ file, places }) =>
      places.map(({ line, found: text }) =>
        at(file, line, `${what} (${text}): only ${Object.keys(where).join(", ")} may; have it handed in, or list the file with a reason`),
      ),
    );
  const dead = Object.keys(where).filter((file) => !found.some((each) => each.file === file && each.places.length > 0));
  return [
    ...elsewhere,
    ...dead.map((file) => `test/architecture/law.ts: ${file} is listed for "${what}", and does nothing of it: drop it`),
  ];
}

export const onlyRootsReadTheEnvironment =
  (where = tables.environment): Rule =>
  (sources) => [
    ...onlyWhere(sources, "reads the environment", /\bprocess\.env\b|\}\s*=\s*process\b(?!\.)/g, where),
    ...sources.flatMap((source) =>
      importsOf(source)
        .filter(({ specifier }) => specifier === "node:process")
        .map(({ line }) => at(source.file, line, "imports node:process, which hides what is read of it: write process.argv and the like")),
    ),
  ];

export const onlyRootsConstructClients =
  (constructions = tables.constructions): Rule =>
  (sources) =>
    Object.entries(constructions).flatMap(([what, { pattern, where }]) => onlyWhere(sources, `constructs ${what}`, pattern, where));

export const productImportsNoTest: Rule = (sources) =>
  within(sources)
    .filter(({ target }) => isTest(target))
    .map(({ file, target, line }) => at(file, line, `product code imports ${target}: move what it needs out of the test`));

export const everyPackageHasOneFolder: Rule = (sources) =>
  sources.flatMap((source) =>
    packagesOf(source)
      .filter(({ specifier }) => !mayImport(source.file, specifier))
      .map(({ specifier, line }) => {
        const home = longest(specifier, Object.keys(tables.clients));
        const remedy =
          home === undefined ? "give it a row in test/architecture/law.ts" : `only ${tables.clients[home]} may: use its adapter`;
        return at(source.file, line, `imports the package ${specifier}: ${remedy}`);
      }),
  );

/** Tests go through the product's adapters too; the few that do not are listed, and only for what is a client there. */
export const testsUseAdapters: Rule = (sources) => {
  const tests = sources.filter(({ file }) => isTest(file));
  const own = (specifier: string): string | undefined => longest(specifier, Object.keys(tables.testClients));
  const imports = tests.flatMap((source) => packagesOf(source).map(({ specifier, line }) => ({ file: source.file, specifier, line })));
  const elsewhere = imports.filter(({ file, specifier }) => {
    const key = own(specifier);
    return key !== undefined && tables.testClients[key]?.file !== file;
  });
  const dead = Object.entries(tables.testClients).filter(([name, { file }]) => {
    return tests.some((source) => source.file === file) && !imports.some((each) => each.file === file && own(each.specifier) === name);
  });
  return [
    ...elsewhere.map(({ file, line, specifier }) =>
      at(file, line, `a test imports ${specifier}: only ${tables.testClients[own(specifier) ?? ""]?.file} may`),
    ),
    ...dead.map(([name, { file }]) => `test/architecture/law.ts: ${file} is listed for ${name}, and does not import it: drop it`),
  ];
};

function mayImport(file: string, specifier: string): boolean {
  const client = longest(specifier, Object.keys(tables.clients));
  if (client !== undefined) return file.startsWith(tables.clients[client] ?? "");
  const shared = longest(specifier, Object.keys(tables.free));
  return shared !== undefined && (tables.free[shared] ?? []).some((prefix) => file.startsWith(prefix));
}

/** Each package of the law is imported where it says, and each dependency of package.json has a row. */
export const everyPackageRowIsAlive =
  (dependencies: readonly string[], { clients, free } = tables as Pick<typeof tables, "clients" | "free">): Rule =>
  (sources) => {
    const packages = sources.map((source) => ({ file: source.file, names: packagesOf(source).map(({ specifier }) => specifier) }));
    const rows = [
      ...Object.entries(clients),
      ...Object.entries(free).flatMap(([name, homes]) => homes.map((home) => [name, home] as const)),
    ];
    const unused = rows.filter(
      ([name, home]) => !packages.some(({ file, names }) => file.startsWith(home) && names.some((n) => n.startsWith(name))),
    );
    const named = [...Object.keys(clients), ...Object.keys(free)];
    return [
      ...unused.map(([name, home]) => `test/architecture/law.ts: nothing in ${home} imports ${name}: drop or correct the row`),
      ...dependencies
        .filter((name) => longest(name, named) === undefined)
        .map((name) => `package.json: the dependency ${name} has no row in test/architecture/law.ts: give it one, or drop it`),
    ];
  };

export const importsFormNoCycle: Rule = (sources) => {
  const known = new Set(sources.map(({ file }) => file));
  const edges = new Map<string, { readonly target: string; readonly line: number }[]>(sources.map(({ file }) => [file, []]));
  for (const { file, target, line } of within(sources)) if (known.has(target)) edges.get(file)?.push({ target, line });
  const done = new Set<string>();
  const cycles: string[] = [];
  const visit = (file: string, path: readonly string[]): void => {
    if (done.has(file)) return;
    for (const { target, line } of edges.get(file) ?? []) {
      const way = [...path, file];
      if (!way.includes(target)) visit(target, way);
      else
        cycles.push(
          at(file, line, `closes a cycle, ${[...way.slice(way.indexOf(target)), target].join(" -> ")}: move what both need below both`),
        );
    }
    done.add(file);
  };
  for (const { file } of sources) visit(file, []);
  return cycles;
};

export const filesAreShort: Rule = (sources) =>
  sources.flatMap(({ file, text }) => {
    const lines = text.split("\n").length - 1;
    return lines > linesMax ? [at(file, linesMax + 1, `has ${lines} lines, more than ${linesMax}: part it by what it does`)] : [];
  });

export const filesSayWhatTheyAre: Rule = (sources) =>
  sources
    .filter(({ text }) => !/^(#!.*\n)?(\/\/|\/\*)/.test(text))
    .map(({ file }) => at(file, 1, "does not open with a comment: say what the file is, who calls it and what it is not"));

/** Members that are private are so at run time too, and show it where they are used. A private constructor has only the keyword. */
export const privateIsPrivate =
  (exempt = tables.keywordPrivate): Rule =>
  (sources) => {
    const keyword = /^\s*(?:static |override |readonly |abstract )*private\s+(?!constructor\b)[^\n;={(]*|\bthis\._\w+/gm;
    const found = sources.map((source) => ({ file: source.file, places: findings(source, keyword) }));
    const inside = (folder: string) => found.some(({ file, places }) => file.startsWith(folder) && places.length > 0);
    return [
      ...found
        .filter(({ file }) => longest(file, Object.keys(exempt)) === undefined)
        .flatMap(({ file, places }) => places.map(({ line, found: text }) => at(file, line, `"${text}": write #name instead`))),
      ...Object.keys(exempt)
        .filter((folder) => !inside(folder))
        .map((folder) => `test/architecture/law.ts: ${folder} has no keyword "private" left: take it off the list "keywordPrivate"`),
    ];
  };

/** The compiler names no unknown field in a literal that is spread: one that is gone everywhere else lives on there. */
export const literalsStandTogether: Rule = (sources) =>
  sources.flatMap((source) =>
    findings(source, /\.\.\.\{/g).map(({ line }) =>
      at(source.file, line, "spreads a literal into another: write its fields there, and let a construction function have its 80 lines"),
    ),
  );

/**
 * Every field of the wire is written and read by product code that knows the wire, or by crds/plan.ts, which encodes rows for it. It
 * compares names, without a compiler: a field that shares its name with one that is used passes, so this finds the name that nobody
 * knows any more, and not every dead field. To find the others, take the fields out of the generated types and see which the compiler
 * does not miss.
 */
export const everyWireFieldIsUsed =
  (protos: readonly Source[]): Rule =>
  (sources) => {
    const code = sources
      .filter(({ file, text }) => file.startsWith("runtime/wire/") || file === "crds/plan.ts" || /from "[^"]*wire\//.test(text))
      .map(({ text }) => text.replace(/\/\/[^\n]*/g, ""));
    return protos.flatMap((proto) =>
      fieldsOf(proto).flatMap(({ message, field, line }) => {
        const name = field.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase());
        const written = new RegExp(`(?<![.\\w])${name}(?::|,| \\}|\\s*$)|case: "${name}"`, "m");
        const read = new RegExp(
          `\\.${name}\\b|\\{[^{}]*\\b${name}\\b[^{}]*\\}[^=;{}]*(?:=[^>]|\\bof\\b)|\\(\\{[^{}]*\\b${name}\\b[^{}]*\\}|case\\s*(?:===)?\\s*"${name}"|\\.case === "${name}"`,
        );
        const missing = [
          ...(code.some((text) => written.test(text)) ? [] : ["writes"]),
          ...(code.some((text) => read.test(text)) ? [] : ["reads"]),
        ];
        return missing.map((verb) =>
          at(proto.file, line, `nobody ${verb} ${message}.${field}: drop the field, and reserve its number and name in ${message}`),
        );
      }),
    );
  };

function fieldsOf({ text }: Source): { readonly message: string; readonly field: string; readonly line: number }[] {
  const plain = text.replace(/\/\/[^\n]*/g, "");
  const messages = [...plain.matchAll(/^message (\w+) \{([\s\S]*?)^\}/gm)];
  return messages.flatMap(({ 1: message = "", 2: body = "", index }) =>
    [...body.matchAll(/^\s*(?:repeated |optional )?[\w.]+ (\w+) = \d+;/gm)].map((match) => ({
      message,
      field: match[1] ?? "",
      line: lineAt(plain, index + `message ${message} {`.length + match.index + match[0].search(/\S/)),
    })),
  );
}
