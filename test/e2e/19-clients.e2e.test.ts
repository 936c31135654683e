// OpenAI's Python client against the running product. The Node client makes its calls in runtime/gateway/api/openai-client.int.test.ts.
import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { Target } from "../kit/deployment/product.ts";
import { execOk } from "../kit/processes/process.ts";
import { pythonWith } from "../kit/processes/python.ts";
import { explainFailures } from "./diagnose.ts";
import { type Deployed, deploy, openWorld, remove, smolMoe } from "./world.ts";

let target: Target;
let moe: Deployed;

explainFailures(() => moe);
before(async () => {
  target = await openWorld();
  moe = await deploy(target, "e2e-clients", smolMoe("clients", { replicas: 2 }));
});
after(async () => {
  if (moe) await remove(moe);
});

test("every call of OpenAI's Python client is answered as its own types expect", async () => {
  const python = await pythonWith("openai-3.57.0", ["openai==3.57.0"], (line) => process.stderr.write(`# ${line}\n`));
  const printed = await execOk(python, [join(import.meta.dirname, "openai_calls.py"), await moe.url(), "clients"]);
  assert.match(printed, /all calls are answered/);
});
