// Generates net/gen from net/proto; `--check` fails when committed files differ. Target js+dts, since Node cannot strip the enums of the
// ts target.
import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const protoDir = join(here, "proto");
const genDir = join(here, "gen");
const binDir = join(here, "../../node_modules/.bin");

function generateInto(out: string): void {
  const scratch = mkdtempSync(join(tmpdir(), "enodia-buf-"));
  try {
    const template = join(scratch, "buf.gen.json");
    const plugin = { local: [process.execPath, join(binDir, "protoc-gen-es")], out, opt: ["target=js+dts", "import_extension=js"] };
    writeFileSync(template, JSON.stringify({ version: "v2", plugins: [plugin] }));
    execFileSync(process.execPath, [join(binDir, "buf"), "generate", protoDir, "--template", template], {
      stdio: ["ignore", "inherit", "inherit"],
      env: { PATH: dirname(process.execPath), BUF_CACHE_DIR: scratch, HOME: scratch },
    });
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

function listFiles(dir: string): string[] {
  return readdirSync(dir, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(dir, join(entry.parentPath, entry.name)))
    .sort();
}

export function drift(): string[] {
  const fresh = mkdtempSync(join(tmpdir(), "enodia-gen-"));
  try {
    generateInto(fresh);
    const names = new Set([...listFiles(fresh), ...listFiles(genDir)]);
    return [...names].filter((name) => read(fresh, name) !== read(genDir, name));
  } finally {
    rmSync(fresh, { recursive: true, force: true });
  }
}

function read(dir: string, name: string): string | undefined {
  try {
    return readFileSync(join(dir, name), "utf8");
  } catch {
    return undefined;
  }
}

if (import.meta.main) {
  if (process.argv.includes("--check")) {
    const names = drift();
    if (names.length > 0) {
      console.error(`net/gen is out of date (${names.join(", ")}): run node runtime/net/generate.ts`);
      process.exitCode = 1;
    }
  } else {
    rmSync(genDir, { recursive: true, force: true });
    generateInto(genDir);
  }
}
