// The commands that the documents tell people to type, held against what the product does.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { globSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, matchesGlob, normalize, resolve } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { parse } from "yaml";
import { moeDeploymentSpecSchema, parseMoEDeployment } from "../crds/moe-deployment.ts";
import { structuralSchema } from "../crds/openapi.ts";
import { gatewayTemplate } from "../operator/deployment/objects/gateway.ts";
import { workerTemplate } from "../operator/deployment/objects/worker-pod.ts";
import { anchors, filesNamed, foldersNamed, links } from "./docs/markdown.ts";
import { decisionText, objectsText } from "./docs/worked-example.ts";
import { settings } from "./kit/deployment/deployment.ts";

const run = promisify(execFile);
const root = resolve(import.meta.dirname, "..");
const read = (file: string): string => readFileSync(join(root, file), "utf8");
const documents = globSync(["*.md", ".github/**/*.md", "{charts,crds,operator,runtime}/**/*.md", "charts/**/NOTES.txt"], {
  cwd: root,
}).sort();
/** The one document that holds this text; pages may move. */
function holder(text: string): string {
  const found = documents.filter((file) => read(file).includes(text));
  assert.equal(found.length, 1, `one document has to hold:\n${text}\nfound: ${found.join(", ")}`);
  return found[0]!;
}

test("what follows a port-forward in the background tries again until it listens", () => {
  const following = documents.flatMap((file) =>
    [...read(file).matchAll(/^kubectl port-forward .*&\n(.*)$/gm)].map(([, next = ""]) => ({ file, next })),
  );
  assert.ok(following.length >= 1);
  const impatient = following.filter(({ next }) => !/enodia -- chat |^curl .*--retry \d+ .*--retry-connrefused /.test(next));
  assert.deepEqual(impatient, []);
});

test("the example of a trace is the script that made the one that is read in tests", () => {
  const script = read("operator/planner/offline/testdata/make_trace.py");
  holder(`\`\`\`python\n${script.slice(script.indexOf("import base64"))}\`\`\`\n`);
});

const complete = "crds/samples/complete.yaml";

test("the complete deployment, which the reference shows, has every field of the spec and a comment on each", () => {
  const text = read(complete);
  const uncommented = text.split("\n").filter((line) => /^\s+(- )?\w+: \S/.test(line) && !line.includes("# "));
  assert.deepEqual(uncommented, []);
  const { spec } = parse(text);
  const schema = structuralSchema(moeDeploymentSpecSchema, "spec");
  const missing = leaves(schema).filter((path) => at(spec, path) === undefined);
  const excluded = ["gateway.replicas"]; // beside autoscale
  const elsewhere = ["model.cache.ephemeral.sizeLimit"]; // in place of the claim
  assert.match(text, /^ +# replicas: \d/m);
  assert.match(text, /^ +# ephemeral: \{sizeLimit: \w+\}/m);
  const refused = ["podTemplate", "gateway.podTemplate"].flatMap((path) => [`${path}.metadata.name`, `${path}.metadata.namespace`]);
  assert.deepEqual(missing, [...elsewhere, ...refused.slice(0, 2), ...excluded, ...refused.slice(2)]);
  assert.match(text, /name and namespace are refused/);
});

test("the complete deployment is accepted, and no field of its pod templates is refused", () => {
  const object = parse(read(complete));
  const deployment = parseMoEDeployment({ ...object, metadata: { ...object.metadata, uid: "uid" } });
  assert.deepEqual(workerTemplate({ deployment, settings }).refusals, []);
  assert.deepEqual(gatewayTemplate({ deployment, settings }).refusals, []);
});

/** Paths of a schema's fields that have none of their own; of lists, those of their entries. */
function leaves(schema: any, path: string[] = []): string[] {
  const children = Object.entries(schema.properties ?? schema.items?.properties ?? {});
  return children.length === 0 ? [path.join(".")] : children.flatMap(([name, child]) => leaves(child, [...path, name]));
}

/** The value at a path; a list stands for its first entry. */
function at(value: any, path: string): unknown {
  return path.split(".").reduce((inner, name) => (Array.isArray(inner) ? inner[0] : inner)?.[name], value);
}

const tracked = globSync("{*,{.github,charts,crds,operator,runtime,test}/**/*}", { cwd: root });
/** True for a path from the root, from the document's folder, or the end of a path whose folder the sentence around it names. */
const exists = (path: string, from: string): boolean =>
  tracked.some((file) => file === path || file === normalize(join(from, path)) || file.endsWith(`/${path}`));
/** True where a tracked file has the form of a path such as `commands/<name>.ts`. */
const hasForm = (path: string): boolean => tracked.some((file) => matchesGlob(file, path.replaceAll(/<\w+>/g, "*")));

test("every file and folder that a page of docs/ or .github/ names is there", () => {
  const pages = documents.filter((file) => /(^|\/)(docs|\.github)\//.test(file));
  const missing = pages.flatMap((file) => {
    const named = [...filesNamed(read(file)), ...foldersNamed(read(file)).map((path) => path.slice(0, -1))];
    return named.filter((path) => !exists(path, dirname(file))).map((path) => `${file}: ${path}`);
  });
  assert.deepEqual(missing, []);
});

test("every path with a <name> in it is the form of a file that is there", () => {
  const named = documents.flatMap((file) =>
    [...read(file).matchAll(/`([\w./-]*<\w+>[\w.-]*\.(?:ts|yaml|json))`/g)].map(([, path = ""]) => path),
  );
  assert.ok(named.length > 10);
  assert.deepEqual(
    named.filter((path) => !hasForm(path)),
    [],
  );
});

test("the paths of a map are true: an import joins each file to one above it", () => {
  const importsOf = (file: string): string[] =>
    [...read(file).matchAll(/(?:from |import\()"(\.[^"]+)"/g)].map(([, path = ""]) => normalize(join(dirname(file), path)));
  for (const plane of ["operator", "runtime"]) {
    const text = read(`${plane}/docs/map.md`);
    for (const section of text.split(/^## /m).filter((one) => one.includes("A test holds"))) {
      const files = [...section.matchAll(/^\d+\. `([^`]+)`/gm)].map(([, path = ""]) => join(plane, path));
      assert.ok(files.length > 5, section.slice(0, 40));
      const imports = files.map(importsOf);
      const loose = files.filter(
        (file, i) => i > 0 && !files.slice(0, i).some((above, k) => imports[k]?.includes(file) || imports[i]?.includes(above)),
      );
      assert.deepEqual(loose, [], section.slice(0, 40));
    }
  }
});

test("every link leads to a file, and to a heading of it", () => {
  const broken = documents.flatMap((file) =>
    links(read(file))
      .filter(({ path, anchor }) => {
        const target = path === "" ? file : normalize(join(dirname(file), path));
        if (!tracked.includes(target.replace(/\/$/, ""))) return true;
        return anchor !== undefined && !anchors(read(target)).includes(anchor);
      })
      .map(({ path, anchor }) => `${file}: ${path}${anchor === undefined ? "" : `#${anchor}`}`),
  );
  assert.deepEqual(broken, []);
});

for (const [section, text] of Object.entries({ decision: decisionText, objects: objectsText }))
  test(`the worked example "${section}" is what \`npm run -s example -- ${section}\` prints`, async () => {
    holder(`$ npm run -s example -- ${section}\n${await text()}`);
  });

test("the table of policies on a trace is what the two commands beside it print, but for milliseconds", async () => {
  const folder = mkdtempSync(join(tmpdir(), "enodia-docs-"));
  try {
    const shown = /^\$ npm run -s enodia -- (plan generate .*)\n\$ npm run -s enodia -- (plan simulate .*)\n([\s\S]*?)\n\.\.\.$/m;
    const [, generate = "", simulate = "", table = ""] =
      documents.map((file) => shown.exec(read(file))).find((match) => match !== null) ?? [];
    const enodia = (command: string) => run(process.execPath, [join(root, "operator/cli/main.ts"), ...command.split(" ")], { cwd: folder });
    await enodia(generate);
    const { stdout } = await enodia(simulate);
    // Columns but the last two, which are times.
    const figures = (text: string) =>
      text.split("\n").map((line) =>
        line
          .trim()
          .split(/\s{2,}/)
          .slice(0, -2),
      );
    const printed = stdout.slice(stdout.indexOf("POLICY")).split("\n\n")[0] ?? "";
    assert.ok(table.includes("incremental"));
    assert.deepEqual(figures(table), figures(printed));
  } finally {
    rmSync(folder, { recursive: true });
  }
});
