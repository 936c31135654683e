import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { customResourceDefinition, kinds } from "./index.ts";
import type { JsonObject } from "./openapi.ts";
import { referencePage } from "./reference.ts";

const page = referencePage(readFileSync(join(import.meta.dirname, "samples/complete.yaml"), "utf8"));
const columnsMax = 160;

/** Every path below a schema, lists marked, in the page's form. */
function paths(path: string, schema: JsonObject): string[] {
  const inner = (schema.type === "array" ? schema.items : schema) as JsonObject;
  const marked = schema.type === "array" ? `${path}[]` : path;
  return [
    marked,
    ...Object.entries((inner.properties ?? {}) as { [name: string]: JsonObject }).flatMap(([name, child]) =>
      paths(`${marked}.${name}`, child),
    ),
  ];
}

test("no line of the reference is longer than a screen is wide", () => {
  assert.deepEqual(
    page.split("\n").filter((line) => line.length > columnsMax),
    [],
  );
});

test("every field of every kind has one heading or one entry, with its whole path", () => {
  const chapters = page.split(/^## /m).slice(1);
  for (const [index, kind] of kinds.entries()) {
    const crd = customResourceDefinition(kind) as { spec: { versions: { schema: { openAPIV3Schema: JsonObject } }[] } };
    const root = crd.spec.versions[0]?.schema.openAPIV3Schema ?? {};
    const { spec, status } = root.properties as { spec: JsonObject; status: JsonObject };
    const shown = [...(chapters[index] ?? "").matchAll(/^(?:### |- `)((?:spec|status)[\w.[\]-]*)/gm)].map(([, path]) => path);
    assert.deepEqual(shown.sort(), [...paths("spec", spec), ...paths("status", status)].sort(), kind.kind);
  }
});

test("a wrapped entry loses no word, and nothing that Markdown would take for a tag", () => {
  const text = page.replaceAll(/\n {2}(?=\S)/g, " ");
  for (const kind of kinds) assert.ok(page.includes(kind.description), kind.kind);
  assert.ok(
    text.includes("When not given: 85% of the memory limit of the container runtime, or of the whole node when there is no limit, less"),
  );
  const outsideCode = text.replaceAll(/`[^`]*`/g, "");
  assert.deepEqual(outsideCode.match(/<[^>\s]+>/g) ?? [], []);
});
