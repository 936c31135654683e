// The entry of every npm script, on a machine with an old Node and nothing fetched yet; npm itself is replaced, since what is tested
// is what it is asked for and what is made of its answer.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";

const run = promisify(execFile);

/** Writes down how it was called; `npm install --prefix` leaves a package there whose Node is this one. */
const npm = `#!/bin/sh
echo "$@" >> "$CALLS"
[ "$1" = install ] || { mkdir -p node_modules; exit 0; }
while [ "$1" != --prefix ]; do shift; done
home="$2/node_modules/\${3%@*}/bin"
mkdir -p "$home"
printf '#!/bin/sh\\nexec "$NODE" "$@"\\n' > "$home/node"
chmod +x "$home/node"
`;
const oldNode = `Object.defineProperty(process, "versions", { value: { ...process.versions, node: "20.1.0" } });`;

test("with an old Node, Node 24 and the locked dependencies are fetched once and run the file", async (t) => {
  const root = mkdtempSync(join(tmpdir(), "enodia-bootstrap-"));
  t.after(() => rmSync(root, { recursive: true, force: true }));
  const file = (path: string, text: string, mode = 0o644): string => {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text, { mode });
    return join(root, path);
  };
  const entry = join(root, "operator/cli/bootstrap.mjs");
  file("package-lock.json", "{}");
  file("hello.mjs", "console.log(process.argv.slice(2).join());");
  file("bin/npm", npm, 0o755);
  cpSync(join(import.meta.dirname, "bootstrap.mjs"), entry);
  const calls = file("calls", "");
  const env = {
    ...process.env,
    ...{ ENODIA_CACHE: join(root, "cache"), CALLS: calls, NODE: process.execPath },
    PATH: [join(root, "bin"), process.env.PATH].join(delimiter),
  };
  const hello = () => run(process.execPath, ["--import", file("old.mjs", oldNode), entry, "hello.mjs", "a", "b"], { env });

  assert.equal((await hello()).stdout, "a,b\n");
  const asked = readFileSync(calls, "utf8").trim().split("\n");
  assert.equal(asked.length, 2);
  assert.match(asked[0] as string, /^install --ignore-scripts .*--prefix \S+ node-linux-\w+@24\.[\d.]+$/);
  assert.match(asked[1] as string, /^ci /);

  assert.equal((await hello()).stdout, "a,b\n");
  assert.equal(readFileSync(calls, "utf8").trim().split("\n").length, 2, "the second time nothing is fetched");
});
