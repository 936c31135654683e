// `enodia status` of a running deployment, on a terminal and as JSON.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { execOk } from "../harness/process.ts";
import { root, type Target } from "../harness/product.ts";
import { explainFailures } from "./diagnose.ts";
import { type Deployed, deploy, openWorld, remove, smolMoe } from "./world.ts";

let target: Target;
let moe: Deployed;

explainFailures(() => moe);
before(async () => {
  target = await openWorld();
  moe = await deploy(target, "e2e-status", smolMoe("smol"));
});
after(async () => {
  if (moe) await remove(moe);
});

test("enodia status shows every rank with its memory", async () => {
  const args = ["operator/cli/main.ts", "status", "smol", "-n", moe.namespace, "--kubeconfig", target.kubeconfig ?? ""];
  const json = JSON.parse(await execOk(process.execPath, [...args, "--json"], { cwd: root })) as any[];
  assert.equal(json[0].ranks.length, 3);
  for (const rank of json[0].ranks) assert.ok(rank.hostedBytes > 0 && rank.memoryBytes > 0, JSON.stringify(rank));
  assert.match(await execOk(process.execPath, args, { cwd: root }), /RANK\s+POD/);
});
