// The page of the chart as Helm reads it: to whom its values open it, and what an install is told of it.
import assert from "node:assert/strict";
import { cpSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { parseAllDocuments } from "yaml";
import { ensureBinaries } from "../cluster/binaries.ts";
import { release, root } from "../kit/deployment/product.ts";
import { execOk } from "../kit/processes/process.ts";

const folder = mkdtempSync(join(tmpdir(), "enodia-chart-page-"));
const chart = join(folder, "enodia");
let helm: string;

before(async () => {
  ({ helm } = await ensureBinaries((line) => process.stderr.write(`${line}\n`), { only: ["helm"] }));
  cpSync(join(root, "charts/enodia"), chart, { recursive: true });
  // Helm prints the notes to a cluster's answer only: here they are rendered as an object.
  cpSync(join(chart, "templates/NOTES.txt"), join(chart, "notes.txt"));
  writeFileSync(
    join(chart, "templates/notes.yaml"),
    'apiVersion: v1\nkind: Notes\nmetadata: {name: notes}\ntext: |\n{{ tpl (.Files.Get "notes.txt") . | indent 2 }}\n',
  );
});
after(() => rmSync(folder, { recursive: true }));

async function template(...flags: readonly string[]): Promise<any[]> {
  const text = await execOk(helm, ["template", release, chart, ...flags]);
  return parseAllDocuments(text).flatMap((document) => document.toJS() ?? []);
}
const rendered = (...sets: readonly string[]): Promise<any[]> =>
  template(...["page.enabled=true", ...sets].flatMap((one) => ["--set", one]));
const notes = async (...sets: readonly string[]): Promise<string> =>
  (await rendered(...sets)).find(({ kind }: any) => kind === "Notes").text;

test("an install is told the first steps and how to open the page, an upgrade the page alone", async () => {
  const of = async (...flags: readonly string[]) =>
    (await template("--set", "page.enabled=true", ...flags)).find(({ kind }) => kind === "Notes").text;
  const [install, upgrade] = [await of(), await of("--is-upgrade")];
  assert.match(install, /enodia -- page -n default.*1\. Put a model.*3\. Send/s);
  assert.match(upgrade, /enodia -- page -n default/);
  assert.doesNotMatch(upgrade, /1\. Put|kubectl apply/);
  assert.doesNotMatch(await notes("page.enabled=false"), /-- page/);
});

test("an install is warned of a page that every pod reaches without a token, and of no other", async () => {
  const apiServer = "page.from[0].ipBlock.cidr=10.0.0.1/32";
  assert.match(await notes("page.access=Proxy"), /WARNING: every pod .* sees all namespaces/);
  assert.match(await notes("page.access=Proxy", "page.namespaces={a,b}"), /sees a, b\./);
  assert.match(await notes("page.access=Proxy", apiServer, "networkPolicy.enabled=false"), /WARNING/);
  assert.doesNotMatch(await notes("page.access=Proxy", apiServer), /WARNING/);
  for (const access of ["PortForward", "ClusterToken"]) assert.doesNotMatch(await notes(`page.access=${access}`), /WARNING/);
  assert.doesNotMatch(await notes("page.access=Proxy", "page.enabled=false"), /WARNING/);
});

test("users of the cluster come by the Service, and the operator is told which namespaces are shown", async () => {
  const objects = await rendered("page.access=ClusterToken", "page.namespaces={a,b}");
  const operator = objects.find(({ kind }: any) => kind === "Deployment").spec.template.spec.containers[0];
  const value = (name: string) => operator.env.find((one: any) => one.name === name)?.value;
  assert.deepEqual([value("ENODIA_PAGE_ACCESS"), value("ENODIA_PAGE_NAMESPACES")], ["ClusterToken", "a,b"]);
  assert.ok(objects.some(({ kind, metadata }: any) => kind === "Service" && metadata.name === `${release}-page`));
  const shown = (await rendered("page.access=ClusterToken")).find(({ kind }: any) => kind === "Deployment");
  assert.ok(!JSON.stringify(shown).includes("ENODIA_PAGE_NAMESPACES"));
});
