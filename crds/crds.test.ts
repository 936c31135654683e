import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import fc from "fast-check";
import { parseAllDocuments } from "yaml";
import { z } from "zod";
import { generatedFiles } from "./generate.ts";
import { customResourceDefinition, kinds } from "./index.ts";
import { moeDeploymentSpecSchema, parseModelUri, parseMoEDeployment } from "./moe-deployment.ts";
import { parseMoETrainingJob, trainingProblems } from "./moe-training-job.ts";
import { type JsonObject, structuralSchema } from "./openapi.ts";
import { formatBytes, parseDuration, parseQuantity } from "./quantity.ts";

/** What others define is beside it in some. */
const all = readdirSync(join(import.meta.dirname, "samples")).flatMap((name) =>
  parseAllDocuments(readFileSync(join(import.meta.dirname, "samples", name), "utf8"))
    .map((document) => ({ name, object: document.toJS() }))
    .filter(({ object }) => object.apiVersion.startsWith("enodia.dev/")),
);
const samples = all.filter(({ object }) => object.kind === "MoEDeployment");
const specSchema = schemaOf("MoEDeployment").spec as JsonObject;

function schemaOf(kind: string): { [key: string]: JsonObject } {
  const found = kinds.find((one) => one.kind === kind);
  assert.ok(found);
  return (customResourceDefinition(found) as any).spec.versions[0].schema.openAPIV3Schema.properties;
}

/** Fills defaults as the API server does: outside in, wherever the parent exists. */
function applyDefaults(schema: any, value: any): any {
  const filled = value === undefined && schema.default !== undefined ? structuredClone(schema.default) : value;
  if (filled === null || typeof filled !== "object") return filled;
  if (Array.isArray(filled)) return filled.map((item) => applyDefaults(schema.items ?? {}, item));
  const out = { ...filled };
  for (const [name, child] of Object.entries(schema.properties ?? {})) {
    const next = applyDefaults(child, out[name]);
    if (next !== undefined) out[name] = next;
  }
  return out;
}

test("the generated files in the tree are those the schemas give", () => {
  for (const [path, content] of generatedFiles()) {
    assert.equal(readFileSync(join(import.meta.dirname, "..", path), "utf8"), content, `${path} is out of date: npm run gen`);
  }
});

test("every sample parses, and the defaults of the CRD are those of zod", () => {
  assert.ok(samples.length >= 3);
  for (const { name, object } of samples) {
    const byServer = applyDefaults(specSchema, object.spec);
    assert.deepEqual(moeDeploymentSpecSchema.parse(object.spec), byServer, name);
    assert.doesNotThrow(() => parseMoEDeployment({ ...object, metadata: { namespace: "x", uid: "u", ...object.metadata } }), name);
  }
  const least = { model: { uri: "pvc://a/b" } };
  assert.deepEqual(moeDeploymentSpecSchema.parse(least), applyDefaults(specSchema, least));
});

test("every sample of a training job parses, has no problem, and gets the defaults of zod from the CRD", () => {
  const schema = schemaOf("MoETrainingJob").spec as JsonObject;
  const jobs = all.filter(({ object }) => object.kind === "MoETrainingJob");
  assert.equal(jobs.length + samples.length, all.length);
  assert.ok(jobs.length > 0);
  for (const { name, object } of jobs) {
    const { spec } = parseMoETrainingJob({ ...object, metadata: { namespace: "x", uid: "u", ...object.metadata } });
    assert.deepEqual(spec, applyDefaults(schema, object.spec), name);
    assert.deepEqual(trainingProblems(spec), [], name);
  }
});

test("kubectl shows no column twice, and of a deployment first what state it is in, how many serve, its model and its age", () => {
  const columnsOf = (kind: (typeof kinds)[number]): readonly { readonly name: string; readonly priority?: number }[] =>
    (customResourceDefinition(kind) as any).spec.versions[0].additionalPrinterColumns;
  for (const kind of kinds) {
    const names = columnsOf(kind).map(({ name }) => name);
    assert.deepEqual(names, [...new Set(names)], kind.kind);
  }
  const shown = columnsOf(kinds.find(({ kind }) => kind === "MoEDeployment") ?? assert.fail()).filter(({ priority = 0 }) => priority === 0);
  assert.deepEqual(
    shown.map(({ name }) => name),
    ["Status", "Ready", "Model", "Imbalance%", "Age"],
  );
});

test("kubectl explain says something about every field", () => {
  const silent = (schema: any, path: string): string[] =>
    Object.entries<any>(schema.properties ?? {}).flatMap(([name, child]) => [
      ...(child.description ? [] : [`${path}.${name}`]),
      ...silent(child, `${path}.${name}`),
      ...silent(child.items ?? {}, `${path}.${name}[]`),
    ]);
  for (const { kind } of kinds) {
    const { spec, status } = schemaOf(kind);
    assert.deepEqual(silent({ properties: { spec, status } }, kind), []);
  }
});

test("a partly given object gets the same defaults from zod and from the CRD", () => {
  const partial = fc.record(
    {
      elasticity: fc.record({ minReplicas: fc.nat(3), drain: fc.constantFrom("1s", "2m") }, { requiredKeys: [] }),
      rebalancing: fc.record(
        { trigger: fc.record({ imbalancePercent: fc.integer({ min: 101, max: 300 }) }, { requiredKeys: [] }), budget: fc.constant({}) },
        { requiredKeys: [] },
      ),
      telemetry: fc.record({ nats: fc.constant({}), staleAfter: fc.constant("90s") }, { requiredKeys: [] }),
      gateway: fc.record({ apiKeySecretRef: fc.constant({ name: "s" }) }, { requiredKeys: [] }),
    },
    { requiredKeys: [] },
  );
  fc.assert(
    fc.property(partial, (given) => {
      const spec = { model: { uri: "pvc://a/b" }, ...given };
      assert.deepEqual(moeDeploymentSpecSchema.parse(spec), applyDefaults(specSchema, spec));
    }),
    { numRuns: 100 },
  );
});

test("the schema generator refuses what a structural schema cannot hold, with the path", () => {
  const cases: Record<string, z.ZodType> = {
    "x.u: a union": z.object({ u: z.union([z.object({ a: z.string() }), z.string()]) }),
    "x.t: ": z.object({ t: z.tuple([z.string(), z.string()]) }),
    "x.l: a list without maxItems": z.object({ l: z.array(z.string()) }),
    "x.e: exclusiveMinimum": z.object({ e: z.number().gt(0) }),
  };
  for (const [want, schema] of Object.entries(cases)) {
    assert.throws(
      () => structuralSchema(schema, "x"),
      (error: Error) => error.message.startsWith(want),
      want,
    );
  }
});

test("quantities and durations are read exactly or refused with the field", () => {
  const good: Record<string, number> = { "1": 1, "512Mi": 536870912, "1.5Gi": 1610612736, "2G": 2e9, "0.5k": 500 };
  for (const [text, want] of Object.entries(good)) assert.equal(parseQuantity(text, "f"), want, text);
  for (const bad of ["", "Gi", "1e3", "-1", "1 Gi", "0", "1Zi", "1.Gi"]) assert.throws(() => parseQuantity(bad, "spec.f"), /spec\.f/, bad);
  assert.equal(parseDuration("1m30s", "f"), 90_000);
  assert.equal(parseDuration("250ms", "f"), 250);
  for (const bad of ["", "5", "s", "1d", "-1s"]) assert.throws(() => parseDuration(bad, "spec.f"), /spec\.f/, bad);
  assert.equal(formatBytes(2.55 * 2 ** 30), "2.55Gi");
  assert.equal(formatBytes(2 ** 30), "1Gi");
});

test("a model URI names a claim and a folder below it, and nothing else", () => {
  assert.deepEqual(parseModelUri("pvc://models/a/b.c"), { claim: "models", folder: "a/b.c" });
  for (const bad of ["pvc://models", "pvc://models/", "pvc:///x", "file://a/b", "pvc://m/../x", "pvc://M/x", "pvc://m/a//b", "hf://a/b"]) {
    assert.throws(() => parseModelUri(bad), /pvc:\/\/<claim>\/<folder>/, bad);
  }
});
