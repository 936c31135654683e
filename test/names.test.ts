// This test keeps shared code from asking for names: no source compares the name of a policy, a backend or a codec outside the
// files of that policy, backend or codec. Who needs to know something of them asks for what they declare. It reads text and finds
// names that are written out beside a comparison, in a case or in a list; not one that comes by a constant, a key or a pattern.
import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { test } from "node:test";
import { backendChoices, codecNames, policyNames } from "../crds/names.ts";

const root = resolve(import.meta.dirname, "..");

/** Names by kind, each with the files in which they may be compared. */
const kinds: readonly { readonly names: readonly string[]; readonly own: (name: string) => RegExp }[] = [
  { names: policyNames, own: (name) => new RegExp(`^operator/planner/policies/${name}[-.]`) },
  { names: backendChoices, own: (name) => new RegExp(`^runtime/compute/${name}[/.]`) },
  // A backend's lowering tells forms of matrices apart, and forms have the names of the codecs that introduced them.
  { names: codecNames, own: (name) => new RegExp(`^runtime/weights/codecs/${name}\\.|^runtime/compute/\\w+/`) },
];
/** Subjects that may have such a value too: types of tensors, the class of a backend's numbers, the mode of rebalancing. */
const otherSubjects = ["dtype", "numericClass", "mode"];

const literal = `"([^"\\n]+)"`;
const comparison = new RegExp(
  `(?:(\\w+)\\s*)?[!=]==?\\s*${literal}|${literal}\\s*[!=]==?\\s*(?:[\\w?]+\\.)*(\\w+)|\\bcase\\s+${literal}|\\[([^\\]\\n]*)\\]\\.includes\\(`,
  "g",
);

/** Comparisons of names in a source, as `file:line: code`. */
function comparisonsIn(file: string, source: string): string[] {
  return [...source.matchAll(comparison)].flatMap((match) => {
    const [code, before, right, left, after, cased, list] = match;
    const line = source.slice(0, match.index).split("\n").length;
    if (otherSubjects.includes(before ?? after ?? "")) return [];
    const compared = list === undefined ? [right ?? left ?? cased ?? ""] : [...list.matchAll(/"([^"]+)"/g)].map((item) => item[1] ?? "");
    const foreign = compared.filter((name) => kinds.some(({ names, own }) => names.includes(name) && !own(name).test(file)));
    return foreign.length > 0 ? [`${file}:${line}: ${code}`] : [];
  });
}

test("no source compares the name of a policy, a backend or a codec outside its own files", () => {
  const sources = globSync("{crds,operator,runtime}/**/*.ts", { cwd: root }).filter(
    (file) => !file.endsWith(".test.ts") && !file.startsWith("runtime/wire/gen/"),
  );
  assert.ok(sources.length > 200);
  assert.deepEqual(
    sources.flatMap((file) => comparisonsIn(file, readFileSync(join(root, file), "utf8"))),
    [],
  );
});

test("a planted comparison is found, and what only looks like one is not", () => {
  const shared = "runtime/engine/open.ts";
  const planted = [
    `const bits = options.codec === "iq4_nl" ? 8 : 32;`,
    `if (choice !== "Auto") return choice;`,
    `if ("cpu" === spec.runtime.backend) return;`,
    `switch (policy.name) {\n  case "hecate":`,
    `if (["eplb", "exflow"].includes(policy)) return;`,
    `if (weight.form !== "f32") throw error;`,
  ];
  for (const source of planted) assert.equal(comparisonsIn(shared, source).length, 1, source);
  const plain = [
    `if (declared.dtype === "f32") return;`,
    `if (backend.numericClass !== "exact") return;`,
    `const backend = await createBackend("cpu", options);`,
    `if (policies[name].usesTransitions) return;`,
    `const cores = "cpu";`,
  ];
  for (const source of plain) assert.deepEqual(comparisonsIn(shared, source), [], source);
  const ours = `if (matrix.form === "f32") return;`;
  assert.deepEqual(comparisonsIn("runtime/compute/ggml/graph.ts", ours), []);
  assert.equal(comparisonsIn("runtime/compute/check.ts", ours).length, 1);
  const another = `if (backend === "reference") return;`;
  assert.equal(comparisonsIn("runtime/compute/ggml/index.ts", another).length, 1);
});
