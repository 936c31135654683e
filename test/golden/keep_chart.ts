// The keeper of golden/releases/v<version>: the chart and the sample objects of a release, to which later charts must be an upgrade. Run
// once, when a release is made; what is kept is never changed after it. `--replace` takes anew what nobody has installed yet.
import { cpSync, existsSync, rmSync } from "node:fs";
import { join, relative } from "node:path";
import packageJson from "../../package.json" with { type: "json" };

const root = join(import.meta.dirname, "../..");
const chart = join(root, "charts/enodia");
const kept = join(import.meta.dirname, "releases", `v${packageJson.version}`);
/** What no packed chart has, and pages to read. */
const left = new Set(["ci", "README.md", "VALUES.md"]);

if (existsSync(kept) && !process.argv.includes("--replace")) {
  process.stderr.write(`${kept} is there: a released chart stays as it is; --replace takes one anew that nobody has installed\n`);
  process.exitCode = 1;
} else {
  rmSync(kept, { recursive: true, force: true });
  cpSync(chart, join(kept, "chart"), { recursive: true, filter: (path) => !left.has(relative(chart, path)) });
  cpSync(join(root, "crds/samples"), join(kept, "samples"), { recursive: true });
}
