// The commands that the documents tell people to type, held against what the product does.
import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { test } from "node:test";
import { parseAllDocuments } from "yaml";
import { podSpecs, restrictedFaults } from "./harness/pod-security.ts";

const root = resolve(import.meta.dirname, "..");
const read = (file: string): string => readFileSync(join(root, file), "utf8");
const documents = globSync(["*.md", "{charts,crds,operator,runtime}/**/*.md", "charts/**/NOTES.txt"], { cwd: root }).sort();

test("what follows a port-forward in the background tries again until it listens", () => {
  const following = documents.flatMap((file) =>
    [...read(file).matchAll(/^kubectl port-forward .*&\n(.*)$/gm)].map(([, next = ""]) => ({ file, next })),
  );
  assert.ok(following.length >= 2, "README and the chart's notes have one each");
  const impatient = following.filter(({ next }) => !/enodia -- chat |^curl .*--retry \d+ .*--retry-connrefused /.test(next));
  assert.deepEqual(impatient, []);
});

test("the example of a trace is the script that made the one that is read in tests", () => {
  const script = read("operator/planner/offline/testdata/make_trace.py");
  assert.ok(read("operator/README.md").includes(`\`\`\`python\n${script.slice(script.indexOf("import base64"))}\`\`\`\n`));
});

test("pods that README has people apply keep to the restricted Pod Security level, as a namespace may ask", () => {
  const applied = [...read("README.md").matchAll(/<<'YAML'\n([\s\S]*?)\nYAML\n/g)].flatMap(([, text = ""]) => parseAllDocuments(text));
  const pods = podSpecs(applied.map((document) => document.toJS()));
  assert.equal(pods.length, 1);
  for (const { where, spec } of pods) assert.deepEqual(restrictedFaults(spec), [], where);
});
