// `npm run test:mutate -- --seed 1 --count 200`: which of seeded faults in product code the unit tests find. Each fault is written into the
// checkout, run against the unit tests that import its file within two hops, and taken out again.
import { spawnSync } from "node:child_process";
import { globSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { parseArgs } from "node:util";

const root = resolve(import.meta.dirname, "..");
const usage = `usage: npm run test:mutate -- [--seed N] [--count N] [--seconds N] [--only PREFIX]
--seconds bounds the time spent on one fault (default 60); --only takes faults of files below a path.`;

interface Place {
  readonly file: string;
  readonly index: number;
  readonly before: string;
  readonly after: string;
}

/** Kinds of faults: the pattern of a place in code, and what stands there instead. */
const kinds: Readonly<Record<string, { readonly pattern: RegExp; readonly change: (found: string) => string }>> = {
  comparison: {
    pattern: /(?<= )(?:===|!==|<=|>=|<|>)(?= )/g,
    change: (found) => ({ "===": "!==", "!==": "===", "<=": "<", ">=": ">", "<": "<=", ">": ">=" })[found] ?? found,
  },
  condition: { pattern: /\bif \([^\n]*?\)(?= (?:return|throw|continue|break|\{))/g, change: (found) => `if (!(${found.slice(4, -1)}))` },
  call: { pattern: /(?<=\n) +(?:await |void )?[\w#][\w.#?]*\([^\n]*\);(?=\n)/g, change: () => "" },
  constant: {
    pattern: /(?<=(?:[=(,?:*/+<>-]|return) )\d[\d_]*(?=[;,) ])/g,
    change: (found) => String(Number(found.replaceAll("_", "")) + 1),
  },
  junction: { pattern: /&&|\|\|/g, change: (found) => (found === "&&" ? "||" : "&&") },
};

const read = (file: string): string => readFileSync(join(root, file), "utf8");
/** Comments and strings, whose content is no code, and lines that only declare types. */
const blanked = (text: string): string =>
  text
    .replace(/"(?:[^"\\\n]|\\.)*"|\/\*[\s\S]*?\*\/|\/\/[^\n]*/g, (found) => found.replace(/[^\n]/g, "_"))
    .replace(/^(?:export )?(?:interface|type) [\s\S]*?^(?=\S)|^import [^;]*;|^ +readonly [^=\n]*$/gm, (found) =>
      found.replace(/[^\n]/g, "_"),
    );

const sources = globSync("{crds,operator,runtime,test}/**/*.ts", { cwd: root }).filter((file) => !/\/gen\/|generate|\.py$/.test(file));
const isUnitTest = (file: string): boolean => file.endsWith(".test.ts") && !/\.(?:int|e2e|gpu)\.test\.ts$/.test(file);
const importers = new Map<string, string[]>();
for (const file of sources)
  for (const [, specifier = ""] of read(file).matchAll(/(?:from|import\() ?"(\.[^"]+)"/g)) {
    const target = relative(root, resolve(root, dirname(file), specifier));
    importers.set(target, [...(importers.get(target) ?? []), file]);
  }

/** Unit tests that import the file or one of its importers: first by hops, then by how much of the path they share. */
function testsOf(file: string): string[] {
  const near = importers.get(file) ?? [];
  const far = near.filter((one) => !isUnitTest(one)).flatMap((one) => importers.get(one) ?? []);
  const shared = (one: string): number => [...one].findIndex((letter, i) => letter !== file[i]);
  const sorted = (list: readonly string[]): string[] => list.filter(isUnitTest).sort((a, b) => shared(b) - shared(a));
  return [...new Set([...sorted(near), ...sorted(far)])];
}

/** Numbers in [0, 1) that a seed decides (mulberry32). */
function randomFrom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

function placesOf(kind: string, only: string): Place[] {
  const { pattern, change } = kinds[kind]!;
  return sources
    .filter((file) => !file.startsWith("test/") && !file.endsWith(".test.ts") && file.startsWith(only))
    .flatMap((file) => {
      const text = read(file);
      return [...blanked(text).matchAll(pattern)].map(({ index, 0: found }) => {
        const before = text.slice(index, index + found.length);
        return { file, index, before, after: change(before) };
      });
    });
}

/** True when the test file passes in so many seconds. */
function passes(test: string, seconds: number): boolean {
  const options = { cwd: root, timeout: Math.ceil(seconds * 1000), stdio: "ignore", killSignal: "SIGKILL" } as const;
  return spawnSync(process.execPath, ["--disable-warning=ExperimentalWarning", "--test-force-exit", test], options).status === 0;
}

/** Seconds that a test file takes without a fault, or undefined where it fails. */
const sound = new Map<string, number | undefined>();

function soundSeconds(test: string, seconds: number): number | undefined {
  if (!sound.has(test)) {
    const begun = Date.now();
    const well = passes(test, seconds * 2);
    sound.set(test, well ? (Date.now() - begun) / 1000 : undefined);
  }
  return sound.get(test);
}

/** The first test that fails for the fault and passes without it; one that hangs for it fails. */
function finder(place: Place, seconds: number): { readonly test?: string; readonly tests: number } {
  const text = read(place.file);
  const until = Date.now() + seconds * 1000;
  let tests = 0;
  for (const test of testsOf(place.file)) {
    const left = (until - Date.now()) / 1000;
    if (left < 1) break;
    tests += 1;
    writeFileSync(join(root, place.file), text.slice(0, place.index) + place.after + text.slice(place.index + place.before.length));
    const failed = !passes(test, left);
    writeFileSync(join(root, place.file), text);
    const timedOut = Date.now() >= until;
    const usual = failed ? soundSeconds(test, seconds) : undefined;
    if (usual !== undefined && (!timedOut || usual * 2 < left)) return { test, tests };
  }
  return { tests };
}

function main(): void {
  const { values } = parseArgs({
    options: {
      seed: { type: "string" },
      count: { type: "string" },
      seconds: { type: "string" },
      only: { type: "string" },
      help: { type: "boolean" },
    },
  });
  if (values.help) return void process.stdout.write(`${usage}\n`);
  const [seed, count, seconds] = [Number(values.seed ?? 1), Number(values.count ?? 200), Number(values.seconds ?? 60)];
  const random = randomFrom(seed);
  const places = Object.keys(kinds).map((kind) => ({ kind, places: placesOf(kind, values.only ?? "") }));
  const found: Record<string, number> = {};
  for (let nth = 1; nth <= count; nth++) {
    const { kind, places: list } = places[Math.floor(random() * places.length)]!;
    const place = list[Math.floor(random() * list.length)];
    if (place === undefined) continue;
    const { test, tests } = finder(place, seconds);
    const outcome = test !== undefined ? "found" : tests > 0 ? "survived" : "no test within two hops";
    found[outcome] = (found[outcome] ?? 0) + 1;
    const line = read(place.file).slice(0, place.index).split("\n").length;
    const what = `${place.before.trim().slice(0, 60)} -> ${place.after.slice(0, 60) || "nothing"}`;
    process.stdout.write(
      `${nth} ${outcome}: ${place.file}:${line} ${kind}: ${what}${test === undefined ? ` (${tests} tests)` : ` by ${test}`}\n`,
    );
  }
  process.stdout.write(
    `seed ${seed}: ${Object.entries(found)
      .map(([outcome, number]) => `${number} ${outcome}`)
      .join(", ")}\n`,
  );
}

main();
