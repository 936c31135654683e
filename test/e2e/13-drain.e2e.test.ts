// Ranks that leave as planned: a node is drained, a template rolls, a deployment shrinks, each under traffic of short answers and one
// long stream. No request fails, no text changes, every expert has a host all the while, and the longest time between two tokens is
// printed against what is aimed at.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { kubectlOf, systemNamespace, type Target, waitReady, workerPods } from "../kit/deployment/product.ts";
import { ask } from "../kit/gateway/openai-client.ts";
import type { KubeObject } from "../kit/kube/kubectl.ts";
import { type Sample, scrape, sum } from "../kit/kube/scrape.ts";
import { sleep, until } from "../kit/processes/process.ts";
import { explainFailures } from "./diagnose.ts";
import { startTraffic, type Traffic } from "./steady-traffic.ts";
import { patchSpec } from "./steps.ts";
import { type Deployed, deploy, openWorld, remove, smolMoe } from "./world.ts";

const name = "drained";
/** Time for the long stream on this machine: one that a rank is not given the time for is computed anew elsewhere. */
const elasticity = { minReplicas: 1, maxReplicas: 4, settle: "1s", drain: "5m" };
const aimMs = 2_000;
/** What is asserted: a machine that is shared has pauses of its own. */
const stallMaxMs = 5_000;
const overWithinMs = 400_000;
const lookEveryMs = 500;
const long = { prompt: "Tell me the history of a small town by the sea, from its beginning until today.", maxTokens: 500 };

let target: Target;
let moe: Deployed;
let url = "";
let longText = "";
let traffic: Traffic;

const workers = (): Promise<readonly KubeObject[]> => workerPods(moe.kubectl, name);
const askLong = (onToken: () => void = () => {}) => ask({ url, model: name, temperature: 0, ...long, onToken });

/** Experts without a host, as the operator that leads counts them; undefined while none answers. */
async function unhosted(): Promise<number | undefined> {
  const system = kubectlOf(target, systemNamespace);
  const pods = await system.list("pods", "app.kubernetes.io/component=operator");
  const looks = await Promise.all(
    pods.map(({ metadata }) => scrape(system, systemNamespace, metadata.name).catch((): readonly Sample[] => [])),
  );
  const leading = looks.find((samples) => sum(samples, "enodia_operator_leader") === 1);
  return leading && sum(leading, "enodia_experts_unhosted", { namespace: moe.namespace, deployment: name });
}

interface Seen {
  readonly seconds: number;
  readonly longestMs: number;
  readonly longStreamMs: number;
  readonly unhosted: number;
  /** Least ranks that were counted as serving. */
  readonly serving: number;
  readonly looks: number;
}

/** Disturbs under a long stream, and looks on until all is over and that stream has ended. */
async function during(what: string, disturb: () => Promise<unknown>, over: () => Promise<boolean>): Promise<Seen> {
  await waitReady(moe.kubectl, name);
  const from = Date.now();
  let previous = 0;
  let longStreamMs = 0;
  let begin: () => void = () => {};
  const begun = new Promise<void>((resolve) => {
    begin = resolve;
  });
  const stream = askLong(() => {
    begin();
    const at = performance.now();
    if (previous > 0) longStreamMs = Math.max(longStreamMs, at - previous);
    previous = at;
  });
  await Promise.race([begun, stream]);
  let running = true;
  const seen = { unhosted: 0, serving: Number.POSITIVE_INFINITY, looks: 0 };
  const looking = (async () => {
    while (running) {
      const [missing, moed] = await Promise.all([unhosted(), moe.kubectl.get("moed", name)]);
      if (missing !== undefined) {
        seen.unhosted = Math.max(seen.unhosted, missing);
        seen.looks++;
      }
      seen.serving = Math.min(seen.serving, moed.status.availableReplicas ?? 0);
      await sleep(lookEveryMs);
    }
  })();
  try {
    await disturb();
    await until(`${what} to be over`, async () => ((await over()) ? true : undefined), { timeoutMs: overWithinMs, everyMs: lookEveryMs });
    assert.equal((await stream).text, longText);
  } finally {
    running = false;
    await looking;
  }
  const to = Date.now();
  const gaps = traffic.gaps.filter(({ at }) => at >= from && at < to).map(({ ms }) => ms);
  const result = { ...seen, longStreamMs, seconds: (to - from) / 1000, longestMs: Math.max(0, longStreamMs, ...gaps) };
  process.stderr.write(
    `# ${what}: longest stall ${Math.round(result.longestMs)} ms (aim ${aimMs}), of the long stream ${Math.round(longStreamMs)} ms; at least ${seen.serving} ranks served, ${seen.unhosted} experts unhosted at most in ${seen.looks} looks; over after ${Math.round(result.seconds)} s, ${gaps.length} gaps\n`,
  );
  traffic.assertWhole();
  assert.ok(seen.looks > 0, "the operator's metrics were never seen");
  assert.equal(seen.unhosted, 0);
  assert.ok(result.longestMs <= stallMaxMs, `${result.longestMs} ms between two tokens`);
  return result;
}

const isSettled = ({ status, metadata, spec }: KubeObject): boolean =>
  status.observedGeneration === metadata.generation &&
  [status.replicas, status.availableReplicas, status.updatedReplicas].every((count) => count === spec.replicas);

explainFailures(() => moe);
before(async () => {
  target = await openWorld();
  moe = await deploy(target, "e2e-drain", smolMoe(name, { elasticity }));
  url = await moe.url();
  longText = (await askLong()).text;
  traffic = await startTraffic({ url: () => url, model: name, clients: 2, everyMs: 1_500, tokens: 32 });
});
after(async () => {
  await traffic?.stop();
  if (moe) await remove(moe);
});

test("kubectl drain: the rank is replaced, emptied and goes, and three serve", { timeout: 900_000 }, async () => {
  const [victim] = await workers();
  const node = victim?.spec.nodeName as string;
  const before = new Set((await workers()).map(({ metadata }) => metadata.uid));
  const away = (await workers()).filter(({ spec }) => spec.nodeName === node).length;
  assert.ok(away > 0);
  try {
    await during(
      "kubectl drain",
      () =>
        moe.kubectl.run([
          ...["drain", node, "--delete-emptydir-data", "--force", "--ignore-daemonsets", "--timeout=400s"],
          `--pod-selector=enodia.dev/deployment=${name},enodia.dev/component=worker`,
        ]),
      async () => isSettled(await moe.kubectl.get("moed", name)) && (await workers()).every(({ spec }) => spec.nodeName !== node),
    );
    const made = (await workers()).filter(({ metadata }) => !before.has(metadata.uid)).length;
    assert.equal(made, away, "as many ranks are made as had to go");
  } finally {
    await moe.kubectl.try(["uncordon", node]);
  }
});

test("a changed podTemplate: three ranks serve all the while, and the last one goes as smoothly as the first", {
  timeout: 900_000,
}, async () => {
  const before = new Set((await workers()).map(({ metadata }) => metadata.uid));
  const seen = await during(
    "a roll",
    () => patchSpec(moe, { podTemplate: { metadata: { annotations: { rolled: new Date().toISOString() } } } }),
    async () => isSettled(await moe.kubectl.get("moed", name)) && (await workers()).every(({ metadata }) => !before.has(metadata.uid)),
  );
  assert.ok(seen.serving >= 3, `${seen.serving} ranks served`);
});

test("a shrink: the rank is emptied before it goes", { timeout: 900_000 }, async () => {
  const seen = await during(
    "a shrink",
    () => moe.kubectl.run(["scale", `moed/${name}`, "--replicas=2"]),
    async () => isSettled(await moe.kubectl.get("moed", name)) && (await workers()).length === 2,
  );
  assert.ok(seen.serving >= 2);
});
