// Where pods of jobs may run by their claims, as a table; and that jobs whose pods were bound anywhere end on one node, whatever the order.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { observed, pod, testDecisions } from "../../../test/kit/training/training-decisions.ts";
import type { ClaimUse } from "../../pods/claim-holder.ts";
import { anywhere, type ClaimLook, claimPlace } from "./claim-place.ts";
import { decide } from "./decide.ts";

const use = (user: string, node: string, more: Partial<ClaimUse> = {}): ClaimUse => ({
  ...{ uid: `${user}-0`, pod: `${user}-0`, claim: "models", user, node, component: "trainer", model: undefined, held: undefined },
  ...{ mounted: true, terminating: false, createdMs: 1, ...more },
});
const place = ({
  uses = [],
  pods = [],
  reach = "Node",
  ranks = 1,
  nodeName,
}: Omit<Partial<ClaimLook>, "job"> & { reach?: "Nodes" | "Node" | "Pod" }) => {
  const reaches = new Map([["models", reach] as const, ["data", "Node"] as const]);
  const found = claimPlace({ job: "j", ranks, reaches, uses, pods, nodeName });
  return [found.node, found.problems.map(({ reason }) => reason).join(), [...found.astray].join()];
};
const bound = { uid: "job j-0", running: false, held: undefined };
const serves = use("deployment moe", "n1");

const rows: Record<string, readonly [given: Parameters<typeof place>[0], want: readonly unknown[]]> = {
  "nobody has it": [{}, [undefined, "", ""]],
  "a deployment has it": [{ uses: [serves] }, ["n1", "", ""]],
  "another job has it": [{ uses: [use("job b", "n2")] }, ["n2", "", ""]],
  "many nodes can mount it": [{ uses: [serves], reach: "Nodes" }, [undefined, "", ""]],
  "the other ranks follow the first that has it": [{ uses: [use("job j", "n3")], ranks: 4 }, ["n3", "", ""]],
  "a pod that was bound elsewhere is made anew": [
    { uses: [serves, use("job j", "n2", { mounted: false })], pods: [bound] },
    ["n1", "", "job j-0"],
  ],
  "a pod without a node, held to one that is gone, too": [{ pods: [{ ...bound, held: "gone" }] }, [undefined, "", "job j-0"]],
  "one that runs on two nodes already can be mounted on more": [
    { uses: [serves, use("job j", "n2")], pods: [{ ...bound, running: true }] },
    [undefined, "", ""],
  ],
  "nor is one that starts there made anew": [
    {
      uses: [serves, use("job b", "n2"), use("job j", "n3", { mounted: false })],
      pods: [{ ...bound, held: "n3" }],
    },
    [undefined, "", ""],
  ],
  "two claims on two nodes": [{ uses: [serves, use("job b", "n2", { claim: "data" })] }, ["n1", "ClaimsApart", ""]],
  "a template that names another node": [{ uses: [serves], nodeName: "n2" }, ["n1", "ClaimElsewhere", ""]],
  "one that names the same": [{ uses: [serves], nodeName: "n1" }, ["n1", "", ""]],
  "one that names any, and nobody has it": [{ nodeName: "n2" }, [undefined, "", ""]],
  "one pod alone can mount it, and there are two ranks": [{ reach: "Pod", ranks: 2 }, [undefined, "ClaimInUse", ""]],
  "one pod alone, and it is a deployment's": [{ reach: "Pod", uses: [serves] }, ["n1", "ClaimInUse", ""]],
  "one pod alone, and it is the job's": [{ reach: "Pod", uses: [use("job j", "n1")] }, ["n1", "", ""]],
};
for (const [what, [given, want]] of Object.entries(rows)) test(what, () => assert.deepEqual(place(given), want));

test("jobs of one claim end on one node, and no pod moves that has the volume", () => {
  const start = fc.array(fc.record({ job: fc.nat(2), node: fc.nat(3), createdMs: fc.nat(3) }), { minLength: 1, maxLength: 6 });
  fc.assert(
    fc.property(start, fc.array(fc.nat(5), { maxLength: 12 }), (given, order) => {
      const uses = given.map(({ job, node, createdMs }, i) => use(`job ${job}`, `n${node}`, { uid: `${i}`, createdMs, mounted: i === 0 }));
      for (const turn of [...order, ...uses.keys()]) {
        const own = uses[turn % uses.length] as ClaimUse;
        const pods = [{ uid: own.uid, running: own.mounted, held: own.held }];
        const { node, astray } = claimPlace({
          job: own.user.slice(4),
          ranks: 2,
          reaches: new Map([["models", "Node"]]),
          uses,
          pods,
          nodeName: undefined,
        });
        if (!astray.has(own.uid)) continue;
        assert.ok(!own.mounted);
        uses[turn % uses.length] = { ...own, node: node ?? own.node, held: node, mounted: node === uses[0]?.node };
      }
      assert.equal(new Set(uses.map(({ node }) => node)).size, 1);
    }),
  );
});

test("a job that waits for a claim looks again in time", () => {
  const problems = [{ reason: "ClaimInUse", message: "why" }];
  assert.equal(decide(observed({ place: { ...anywhere, problems } })).requeueAfterMs, 30_000);
});

const astray = { ...anywhere, astray: new Set(["p0", "c0"]) };
testDecisions({
  "a pod that cannot mount a claim where it is goes, and its rank gets another": [
    { pods: [pod({ running: false })], place: astray },
    "delete j-train-0-0 | Running False Replacing",
  ],
  "a claim that another has is told, and no pod is made": [
    { place: { ...anywhere, problems: [{ reason: "ClaimInUse", message: "why" }] } },
    " | SpecAccepted False ClaimInUse, Running False Refused",
  ],
});
