// The work of compiling a schema, counted in steps: chains of references, unions in unions, and comparisons of large objects.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { compileSchema } from "./compile.ts";
import { Comparison, heightsOf, membersMax, membersOf, type Node } from "./nodes.ts";
import { TextList } from "./texts.ts";

const numbers = (count: number): object[] => Array.from({ length: count }, (_, n) => ({ const: n }));

/** Definitions that each name the one before, and a union of them at equal distances. */
function chained(length: number, last: object, apart = 60): { readonly $defs: Record<string, object>; readonly anyOf: object[] } {
  const $defs: Record<string, object> = { 0: last };
  const anyOf: object[] = [];
  for (let k = 1; k <= length; k++) {
    $defs[k] = { $ref: `#/$defs/${k - 1}` };
    if (k % apart === 0) anyOf.push({ $ref: `#/$defs/${k}` });
  }
  return { $defs, anyOf };
}

/** The nodes, and how often one of them was looked up. */
function counted(nodes: readonly Node[]): { readonly nodes: readonly Node[]; readonly reads: () => number } {
  let reads = 0;
  const get = (of: readonly Node[], key: string | symbol): unknown => {
    if (typeof key === "string" && /^\d+$/.test(key)) reads += 1;
    return Reflect.get(of, key);
  };
  return { nodes: new Proxy(nodes, { get }), reads: () => reads };
}

test("references in a chain share the members of what they name, in steps that grow with the schema", () => {
  const text = JSON.stringify(chained(1_100, { anyOf: numbers(2_000) }));
  assert.ok(text.length > 60_000 && text.length <= 65_536, `${text.length} bytes`);
  const compiled = compileSchema(text);
  assert.equal(compiled.members[compiled.root]?.length, 2, "a thousand constants are one list");
  const { nodes, reads } = counted(compiled.nodes);
  assert.equal(membersOf(nodes)[compiled.root]?.length, 2_000);
  assert.ok(reads() < membersMax + 3 * nodes.length, `${reads()} nodes looked up`);
});

test("unions whose members are more than the bound together are refused", () => {
  const chain = chained(600, { anyOf: numbers(1_500) }, 20);
  for (const [k, ref] of Object.entries(chain.$defs)) if (k !== "0") chain.$defs[k] = { anyOf: [ref, { type: "null" }] };
  assert.throws(() => compileSchema(JSON.stringify(chain)), {
    code: "InvalidRequest",
    message: /more than 100000 branches.*nest them less/,
  });
});

const unions = fc
  .array(fc.array(fc.nat(11), { minLength: 1, maxLength: 4 }), { minLength: 8, maxLength: 8 })
  .map((lists): Node[] => [
    ...lists.map((of): Node => ({ kind: "union", of })),
    ...Array.from({ length: 4 }, (): Node => ({ kind: "array", first: [], items: 0, min: 0, max: 3 })),
  ]);

test("members are the nodes that a union leads to, also where unions lead to themselves", () => {
  fc.assert(
    fc.property(unions, (nodes) => {
      for (const [at, members] of membersOf(nodes).entries()) {
        const reached = new Set([at]);
        for (const one of reached) {
          const node = nodes[one];
          if (node?.kind === "union") for (const next of node.of) reached.add(next);
        }
        assert.deepEqual(new Set(members), new Set([...reached].filter((one) => nodes[one]?.kind !== "union")));
      }
    }),
    { numRuns: 300 },
  );
});

test("heights are told in one pass, whichever way the nodes name each other", () => {
  const length = 2_000;
  const scalar = compileSchema('{"const":1}').nodes.find(({ kind }) => kind === "scalar") as Node;
  const names = new TextList(["a"]);
  const list = Array.from({ length }, (_, at): Node => ({ kind: "object", names, values: [at + 1], required: 1n, others: undefined }));
  const { nodes, reads } = counted([...list, scalar]);
  const heights = heightsOf(nodes);
  assert.deepEqual([heights[0], heights[length]], [length, 0]);
  assert.ok(reads() < 10 * length, `${reads()} nodes looked up`);
  const loop: Node = { kind: "object", names, values: [0], required: 1n, others: undefined };
  assert.deepEqual(heightsOf([loop, { kind: "union", of: [0] }, { kind: "array", first: [0], items: undefined, min: 0, max: 1 }]), [
    Number.POSITIVE_INFINITY,
    Number.POSITIVE_INFINITY,
    1,
  ]);
});

test("a comparison costs what it looks at, and tells nothing apart once that is spent", () => {
  const names = new TextList(Array.from({ length: 1_000 }, (_, i) => `n${i}`));
  const values = names.texts.map(() => 2);
  const object: Node = { kind: "object", names, values, required: (1n << 1_000n) - 1n, others: undefined };
  const word = compileSchema('{"const":1}').nodes.find(({ kind }) => kind === "scalar") as Node;
  const { nodes, reads } = counted([object, object, word, { kind: "string", texts: names }]);
  const comparison = new Comparison(nodes, membersOf(nodes));
  assert.equal(comparison.areDisjoint(0, 3), true);
  for (let i = 0; i < 1_000; i++) assert.equal(comparison.areDisjoint(0, 1), false);
  assert.ok(reads() < 400_000, `${reads()} nodes looked up`);
  assert.equal(comparison.areDisjoint(0, 3), false, "nothing is left");
});

test("a schema of branches that compare large objects in each pair of them is refused or compiled within the bound", () => {
  const properties = Object.fromEntries(Array.from({ length: 600 }, (_, i) => [`n${i}`, true]));
  const large = { type: "object", properties, required: Object.keys(properties), additionalProperties: false };
  const branch = (n: number): object => ({
    ...{ type: "object", properties: { p: { $ref: "#/$defs/large" }, t: { const: n } }, required: ["p", "t"] },
  });
  const schema = { $defs: { large }, oneOf: Array.from({ length: 100 }, (_, n) => branch(n)) };
  assert.throws(() => compileSchema(JSON.stringify(schema)), { code: "InvalidRequest", message: /may hold at once/ });
});
