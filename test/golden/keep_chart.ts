// The keeper of golden/releases/v<version>: the chart and the sample objects of a release, to which later charts must be an upgrade. Run
// once, when a release is made; what is kept is never changed after it. `--replace` takes anew what nobody has installed yet.
import { cpSync, existsSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { chartFolder, contentOf, keptFolder } from "./kept-chart.ts";

if (existsSync(keptFolder) && !process.argv.includes("--replace")) {
  process.stderr.write(`${keptFolder} is there: a released chart stays as it is; --replace takes one anew that nobody has installed\n`);
  process.exitCode = 1;
} else {
  rmSync(keptFolder, { recursive: true, force: true });
  for (const [file, content] of contentOf(chartFolder)) {
    const copy = join(keptFolder, "chart", file);
    mkdirSync(dirname(copy), { recursive: true });
    writeFileSync(copy, content);
  }
  cpSync(join(chartFolder, "../../crds/samples"), join(keptFolder, "samples"), { recursive: true });
}
