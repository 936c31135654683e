// Where a claim is and who follows, as a table; and that deployments which decide one after the other, from whatever start, end on one node.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type ClaimUse, isAstray, refusalOf, serverNode } from "./claim-holder.ts";

const use = (deployment: string, node: string, more: Partial<ClaimUse> = {}): ClaimUse => ({
  ...{ uid: deployment, pod: `${deployment}-pod`, claim: "models", user: `deployment ${deployment}`, node, component: "weight-server" },
  ...{ mounted: true, terminating: false, createdMs: 1, model: "models/a", held: undefined },
  ...more,
});
const isOwn = ({ user, component }: ClaimUse) => user === "deployment a" && component === "weight-server";

const rows: Record<string, { readonly uses: ClaimUse[]; readonly want: string | undefined }> = {
  "nobody has it": { uses: [], want: undefined },
  "another deployment has it": { uses: [use("b", "n1")], want: "n1" },
  "it has it itself, and others follow": { uses: [use("a", "n1"), use("b", "n1", { createdMs: 0, held: "n1" })], want: undefined },
  "it followed, and its template stays": { uses: [use("a", "n1", { held: "n1" })], want: "n1" },
  "its own pod goes: the next is as free as the first": { uses: [use("a", "n1", { held: "n1", terminating: true })], want: undefined },
  "a pod of another that ends still has the volume": { uses: [use("b", "n1", { terminating: true })], want: "n1" },
  "it was bound elsewhere, where the volume cannot be": {
    uses: [use("a", "n2", { mounted: false, createdMs: 0 }), use("b", "n1")],
    want: "n1",
  },
  "both were bound at once: the older one stays": {
    uses: [use("a", "n2", { mounted: false }), use("b", "n1", { mounted: false, createdMs: 2 })],
    want: undefined,
  },
  "it gets another model, and so another pod": { uses: [use("a", "n1", { model: "models/b" }), use("b", "n1")], want: "n1" },
  "claims that run on two nodes hold nobody, so that an older rank of a job elsewhere restarts nothing": {
    uses: [use("a", "n1", { createdMs: 2 }), use("b", "n2", { component: "trainer" })],
    want: undefined,
  },
  "nor does it lose the node that it was held to": {
    uses: [use("a", "n1", { createdMs: 2, held: "n1" }), use("b", "n2", { component: "trainer" })],
    want: "n1",
  },
  "its download runs elsewhere": { uses: [use("a", "n3", { component: "downloader" })], want: "n3" },
};
for (const [what, { uses, want }] of Object.entries(rows)) test(what, () => assert.equal(serverNode(uses, isOwn, "models/a"), want));

test("a download is made anew where it can never run, and only there", () => {
  const own = (node: string, mounted = false) => use("a", node, { component: "weight-server", mounted, createdMs: 2 });
  const astray = (uses: ClaimUse[], held?: string) => isAstray(uses, isOwn, held);
  assert.deepEqual([astray([own("n2"), use("b", "n1")]), astray([], "n1"), astray([use("b", "n2")], "n1")], [true, true, true]);
  assert.deepEqual([astray([own("n1"), use("b", "n1")]), astray([own("n2", true), use("b", "n1")]), astray([])], [false, false, false]);
  const onMany = [use("b", "n1"), use("c", "n2")];
  assert.deepEqual([astray([own("n3"), ...onMany], "n3"), astray([own("n3"), ...onMany]), astray(onMany)], [false, false, false]);
  assert.ok(astray(onMany, "n3"), "one without a node may be held to one that is gone");
});

test("servers of one claim end on one node, and none moves that has the volume", () => {
  const start = fc.array(fc.record({ node: fc.integer({ min: 0, max: 3 }), createdMs: fc.nat(3) }), { minLength: 1, maxLength: 5 });
  const given = fc.record({ start, order: fc.array(fc.nat(4), { minLength: 10, maxLength: 20 }) });
  fc.assert(
    fc.property(given, ({ start, order }) => {
      const uses = start.map(({ node, createdMs }, i) => use(`d${i}`, `n${node}`, { createdMs, mounted: false }));
      // One of them gets the volume, and in each turn those on its node.
      uses[0] = { ...(uses[0] as ClaimUse), mounted: true };
      for (const turn of [...order, ...start.keys(), ...start.keys()]) {
        const own = uses[turn % uses.length] as ClaimUse;
        const node = serverNode(uses, ({ user }) => user === own.user, "models/a");
        if (node === own.held) continue;
        assert.ok(!own.mounted, `${own.user} is restarted`);
        const at = node ?? own.node;
        uses[turn % uses.length] = { ...own, node: at, held: node, mounted: at === uses[0]?.node };
      }
      assert.deepEqual(new Set(uses.map(({ node }) => node)), new Set([uses[0].node]));
    }),
  );
});

test("a claim for one pod is refused to the second deployment and to a green one, with the remedy; not to who has it", () => {
  const asks = (name: string, tried = false) => refusalOf([use("b", "n1")], { claim: "models", user: `deployment ${name}`, tried });
  assert.match(asks("a"), /^claim models is ReadWriteOncePod, and pod b-pod of deployment b has it: use a claim that is ReadWriteOnce/);
  assert.match(asks("b", true), /no green deployment can try the model: .* set spec.rolloutStrategy.maxSurge to 0$/);
  assert.equal(asks("b"), "");
});
