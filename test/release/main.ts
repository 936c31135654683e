// `npm run release`: builds, pushes and signs images and chart of this tree (steps.ts). Needs docker with buildx, helm and cosign, logged
// in to the registry. A run that stopped is run again: every step replaces what an earlier one left.
import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { parse } from "yaml";
import packageJson from "../../package.json" with { type: "json" };
import {
  buildCommand,
  type Image,
  images,
  metadataFile,
  type Place,
  packCommand,
  pinnedValues,
  pushChartCommand,
  releaseFaults,
  signChartCommand,
  signCommand,
} from "./steps.ts";

const root = join(import.meta.dirname, "../..");
const usage = `usage: npm run release -- --registry HOST/PATH [--tag vX.Y.Z] [--dry-run]

Pushes images and chart below HOST/PATH/enodia, by digest, with SBOM, provenance and signatures. --tag is the tag that must be this version.
--dry-run prints the commands, and what stands against a release, and runs nothing.`;

const read = (file: string): string => readFileSync(join(root, file), "utf8");

class Failed extends Error {}

/** Runs a command and returns what it printed; a dry run prints the command alone. */
function call(argv: readonly string[], dry: boolean): string {
  process.stdout.write(`$ ${argv.join(" ")}\n`);
  if (dry) return "";
  const [program = "", ...args] = argv;
  const done = spawnSync(program, args, { cwd: root, encoding: "utf8", stdio: ["ignore", "pipe", "inherit"], maxBuffer: 64 * 1024 * 1024 });
  if (done.status !== 0) throw new Failed(`${program} ended with ${done.error?.message ?? done.status}`);
  return done.stdout;
}

function facts(tag: string | undefined): Parameters<typeof releaseFaults>[0] {
  const changes = spawnSync("git", ["status", "--porcelain"], { cwd: root, encoding: "utf8" }).stdout;
  const chart = parse(read("charts/enodia/Chart.yaml"));
  return { version: packageJson.version, chart, changelog: read("CHANGELOG.md"), tag, changes };
}

/** Builds and pushes every image -> digest by Dockerfile. */
function pushImages(place: Place, dry: boolean): Map<string, string> {
  const digests = new Map<string, string>();
  for (const image of images) {
    call(buildCommand(place, image, digests.get("runtime/Dockerfile") ?? ""), dry);
    const digest = dry
      ? `sha256:<of ${image.name}${image.suffix}>`
      : JSON.parse(readFileSync(metadataFile(place, image), "utf8"))["containerimage.digest"];
    digests.set(image.dockerfile, digest);
  }
  return digests;
}

function pushChart(place: Place, digestOf: (image: Image) => string, dry: boolean): void {
  const chart = `${place.out}/chart/enodia`;
  if (!dry) {
    rmSync(chart, { recursive: true, force: true });
    cpSync(join(root, "charts/enodia"), chart, { recursive: true });
    writeFileSync(join(chart, "values.yaml"), pinnedValues(read("charts/enodia/values.yaml"), place, digestOf));
  }
  call(packCommand(place, chart), dry);
  // Helm tells the digest on its error stream.
  const pushed = call(["sh", "-c", 'exec "$@" 2>&1', "sh", ...pushChartCommand(place)], dry);
  const digest = dry ? "sha256:<of the chart>" : /sha256:[0-9a-f]{64}/.exec(pushed)?.[0];
  if (digest === undefined) throw new Failed(`helm push names no digest: ${pushed}`);
  call(signChartCommand(place, digest), dry);
}

function release(place: Place, dry: boolean): void {
  if (!dry) mkdirSync(place.out, { recursive: true });
  const digests = pushImages(place, dry);
  const digestOf = (image: Image): string => digests.get(image.dockerfile) ?? "";
  for (const image of images) call(signCommand(place, image, digestOf(image)), dry);
  pushChart(place, digestOf, dry);
}

function main(): number {
  const { values } = parseArgs({ options: { registry: { type: "string" }, tag: { type: "string" }, "dry-run": { type: "boolean" } } });
  const registry = values.registry ?? "";
  if (!/^[\w.-]+(:\d+)?(\/[\w.-]+)*$/.test(registry)) {
    process.stderr.write(`${usage}\n`);
    return 2;
  }
  const dry = values["dry-run"] ?? false;
  const faults = releaseFaults(facts(values.tag));
  for (const fault of faults) process.stderr.write(`not to be released: ${fault}\n`);
  if (faults.length > 0 && !dry) return 1;
  try {
    release({ registry, version: packageJson.version, out: join(root, "out/release") }, dry);
    return 0;
  } catch (error) {
    if (!(error instanceof Failed)) throw error;
    process.stderr.write(`${error.message}\n`);
    return 1;
  }
}

process.exitCode = main();
