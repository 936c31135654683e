// CRDs of the last tag against those of this tree, and the comparison itself: each way to narrow a CRD is seen, each way to widen it is
// let through.
import assert from "node:assert/strict";
import { test } from "node:test";
import { parse } from "yaml";
import { customResourceDefinition, kinds } from "../../crds/index.ts";
import { crdDifferences, type Difference } from "./crd-contract.ts";
import { judgedRules } from "./crd-judged.ts";
import { filesAtLastTag, lastTag } from "./last-tag.ts";

test("every object that the last tag took is taken by this tree, with the same meaning", (t) => {
  if (lastTag === undefined) return t.diagnostic("no tag yet");
  const found = [...filesAtLastTag("crds/manifests")].flatMap(([file, content]): Difference[] => {
    const kind = kinds.find(({ plural }) => file.endsWith(`/${plural}.yaml`));
    return kind === undefined
      ? [{ path: file, fault: "is gone" }]
      : crdDifferences(parse(content.toString(), { version: "1.1" }), customResourceDefinition(kind));
  });
  const open = found.filter(({ rule }) => rule === undefined || judgedRules[rule] === undefined);
  assert.deepEqual(
    open.map(({ path, fault }) => `${path} ${fault}`),
    [],
    "add a field beside it, or judge a rule in crd-judged.ts",
  );
  const stale = Object.keys(judgedRules).filter((judged) => !found.some(({ rule }) => rule === judged));
  assert.deepEqual(stale, [], "the last tag has these rules: drop their rows");
});

const guarded = "!has(self.extra) || self.extra > self.count";

function crd(change: (spec: any, version: any, crd: any) => void = () => {}): any {
  const spec: any = {
    type: "object",
    required: ["count"],
    "x-kubernetes-validations": [{ rule: "self.count > 0", message: "m" }],
    properties: {
      count: { type: "integer", minimum: 1, maximum: 9, default: 1 },
      mode: { type: "string", enum: ["a", "b"], pattern: "^.$", maxLength: 5 },
      list: { type: "array", maxItems: 3, items: { type: "string", minLength: 1 } },
      map: { type: "object", additionalProperties: { type: "string", maxLength: 9 } },
      open: { type: "object", "x-kubernetes-preserve-unknown-fields": true },
    },
  };
  const version = {
    name: "v1alpha1",
    served: true,
    storage: true,
    schema: { openAPIV3Schema: { type: "object", properties: { spec } } },
    subresources: { status: {}, scale: { specReplicasPath: ".spec.count" } },
  };
  const whole = { spec: { group: "g", scope: "Namespaced", names: { kind: "K", plural: "ks", shortNames: ["k"] }, versions: [version] } };
  change(spec, version, whole.spec);
  return whole;
}

const narrowed: Readonly<Record<string, readonly [(spec: any, version: any, crd: any) => void, RegExp]>> = {
  "a field is gone": [(spec) => delete spec.properties.mode, /spec\.mode is gone/],
  "another type": [(spec) => (spec.properties.count.type = "string"), /spec\.count type was "integer"/],
  "another default": [(spec) => (spec.properties.count.default = 2), /count default was 1, is 2/],
  "a default where was none": [(spec) => (spec.properties.mode.default = "a"), /mode default was none/],
  "a higher minimum": [(spec) => (spec.properties.count.minimum = 2), /count minimum was 1, is 2/],
  "a lower maximum": [(spec) => (spec.properties.count.maximum = 8), /count maximum was 9/],
  "a bound where was none": [(spec) => (spec.properties.list.minItems = 1), /list minItems was none, is 1/],
  "a value less": [(spec) => spec.properties.mode.enum.pop(), /mode enum/],
  "another pattern": [(spec) => (spec.properties.mode.pattern = "^a$"), /mode pattern/],
  "a field required": [(spec) => spec.required.push("mode"), /mode is required/],
  "shorter entries of a list": [(spec) => (spec.properties.list.items.minLength = 2), /list\[\] minLength/],
  "shorter values of a map": [(spec) => (spec.properties.map.additionalProperties.maxLength = 1), /map\.\* maxLength/],
  "a map is a struct": [(spec) => delete spec.properties.map.additionalProperties, /map\.\* was/],
  "unknown fields pruned": [
    (spec) => delete spec.properties.open["x-kubernetes-preserve-unknown-fields"],
    /open unknown fields are pruned/,
  ],
  "a rule more": [(spec) => spec["x-kubernetes-validations"].push({ rule: "self.count < 5" }), /spec has a new rule: self\.count < 5/],
  "a rule that asks for a field of old": [
    (spec) => spec["x-kubernetes-validations"].push({ rule: "!has(self.mode) || self.count < 5" }),
    /has a new rule/,
  ],
  "a rule that only seems to ask first": [
    (spec) => spec["x-kubernetes-validations"].push({ rule: "!has(self.extra) || true ? false : true" }),
    /has a new rule/,
  ],
  "a rule whose part that is new stands in brackets": [
    (spec) => spec["x-kubernetes-validations"].push({ rule: "(!has(self.extra) || self.extra > 1) && self.count < 5" }),
    /has a new rule/,
  ],
  "a rule that asks first for a field that could have been there unknown": [
    (spec) => spec["x-kubernetes-validations"].push({ rule: "!has(self.open.extra) || self.open.extra > 1" }),
    /has a new rule/,
  ],
  "a former rule with a bound more": [
    (spec) => (spec["x-kubernetes-validations"] = [{ rule: "self.count > 0 && self.count < 5" }]),
    /has a new rule/,
  ],
  "no /status": [(_, version) => delete version.subresources.status, /has no \/status/],
  "another /scale": [(_, version) => (version.subresources.scale.specReplicasPath = ".spec.n"), /\/scale was/],
  "served no more": [(_, version) => (version.served = false), /served no more/],
  "a short name less": [(_, __, whole) => (whole.names.shortNames = []), /k is gone/],
  "another scope": [(_, __, whole) => (whole.scope = "Cluster"), /scope was "Namespaced"/],
};

for (const [name, [change, fault]] of Object.entries(narrowed))
  test(`seen: ${name}`, () => {
    const faults = crdDifferences(crd(), crd(change)).map((one) => `${one.path} ${one.fault}`);
    assert.equal(faults.length, 1, faults.join("\n"));
    assert.match(faults[0] ?? "", fault);
  });

test("what widens a CRD is let through: fields, values, bounds, versions, and rules of new fields alone", () => {
  const wider = crd((spec, _, whole) => {
    spec.properties.extra = { type: "integer", default: 3 };
    spec.required = ["extra"];
    spec["x-kubernetes-validations"] = [guarded, "self.count > 0 || self.mode == 'a'", "self.mode == '||' || !has(self.extra)"].map(
      (rule) => ({ rule }),
    );
    Object.assign(spec.properties.count, { minimum: 0, maximum: 10 });
    spec.properties.mode.enum.push("c");
    delete spec.properties.mode.pattern;
    delete spec.properties.list.maxItems;
    whole.names.shortNames.push("kk");
    whole.versions.push({ ...whole.versions[0], name: "v1beta1", storage: false });
  });
  assert.deepEqual(crdDifferences(crd(), wider), []);
  assert.deepEqual(crdDifferences(crd(), crd()), []);
});

test("of a new rule the rule itself is told, so that it can be judged", () => {
  const found = crdDifferences(
    crd(),
    crd((spec) => spec["x-kubernetes-validations"].push({ rule: "r" })),
  );
  assert.deepEqual(
    found.map(({ rule }) => rule),
    ["r"],
  );
});
