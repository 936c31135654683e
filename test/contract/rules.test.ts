// The list of CEL rules beside the list of their cases: each rule has one that breaks it, and no case is for a rule that is not there.
import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { celRules, merged, ruleCases, rulesOfCase } from "./rules.ts";

const manifests = readdirSync(join(import.meta.dirname, "../../crds/manifests")).map((file) => file.replace(".yaml", ""));
const rules = manifests.flatMap(celRules);

test("every CEL rule of the manifests has a case that breaks it", () => {
  const covered = new Set(ruleCases.flatMap((one) => rulesOfCase(one, rules)));
  const without = rules.filter((rule) => !covered.has(rule)).map(({ kind, path, message }) => `${kind}${path}: ${message}`);
  assert.deepEqual(without, [], "add a case to rules.ts");
  assert.ok(rules.length > 60, `${rules.length} rules`);
});

test("every case is for one rule, and one that compares with the object before says what that was", () => {
  for (const one of ruleCases) {
    const found = rulesOfCase(one, rules);
    assert.equal(found.length, 1, `${one.kind}${one.path} ${one.says ?? ""}`);
    const compares = found[0]?.rule.includes("oldSelf") === true;
    assert.ok(!(one.before !== undefined && !compares), `${one.kind}${one.path}: ${one.says} compares with nothing`);
  }
});

test("a rule that nobody has a case for is found", () => {
  const more = { kind: "MoEDeployment", path: ".spec", rule: "self.x", message: "x must be there", field: "spec" };
  assert.ok(!ruleCases.some((one) => rulesOfCase(one, [more]).length > 0));
});

test("a merge patch replaces lists, goes into objects and takes out what is null", () => {
  assert.deepEqual(merged({ a: { b: 1, c: 2 }, d: [1, 2] }, { a: { b: null, e: 3 }, d: [9] }), { a: { c: 2, e: 3 }, d: [9] });
});
