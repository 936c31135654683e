// Which node has a volume that one node can have, as a table.
import assert from "node:assert/strict";
import { test } from "node:test";
import { attachments, type ClaimPod } from "./claims.ts";

const pod = (node: string, created: string, ...volumes: string[]): ClaimPod => ({ node, created, volumes });
const rows: Record<string, { readonly pods: ClaimPod[]; readonly attached?: [string, string][]; readonly want: [string, string][] }> = {
  "nobody needs it": { pods: [], attached: [["v", "n1"]], want: [] },
  "the oldest pod's node gets it": { pods: [pod("n2", "2", "v"), pod("n1", "1", "v")], want: [["v", "n1"]] },
  "it stays while a pod there has it": { pods: [pod("n2", "2", "v"), pod("n1", "1", "v")], attached: [["v", "n2"]], want: [["v", "n2"]] },
  "it goes when none there has it": { pods: [pod("n2", "2", "v")], attached: [["v", "n1"]], want: [["v", "n2"]] },
  "each volume for itself": {
    pods: [pod("n1", "1", "v"), pod("n2", "2", "w")],
    want: [
      ["v", "n1"],
      ["w", "n2"],
    ],
  }, // prettier-ignore
};
for (const [what, { pods, attached = [], want }] of Object.entries(rows))
  test(what, () => assert.deepEqual([...attachments(pods, new Map(attached))], want));
