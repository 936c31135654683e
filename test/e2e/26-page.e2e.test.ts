// The operator's page as a reader has it: in Chromium, behind the API server's proxy of a real cluster, while load makes experts move and
// ranks roll. What it shows is what `enodia status` says and the API server has; network policies hold, and screenshots are left in
// out/page-cluster.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { Browser, Page } from "playwright-core";
import type { PlacementPlan } from "../../crds/plan.ts";
import { installChart, kubectlOf, root, serviceAddress, systemNamespace, type Target, waitReady } from "../kit/deployment/product.ts";
import { type Load, startLoad } from "../kit/gateway/traffic-load.ts";
import type { Forward, KubeObject } from "../kit/kube/kubectl.ts";
import { enforceNetworkPolicies } from "../kit/kube/network-policies.ts";
import { execOk, until } from "../kit/processes/process.ts";
import { launchChromium } from "../page/browser.ts";
import { leastContrast, nameless, overflow, saysNot, tableRows } from "../page/probes.ts";
import { patchRebalancing } from "./balance.ts";
import { explainFailures } from "./diagnose.ts";
import { planOf } from "./held.ts";
import { patchSpec } from "./steps.ts";
import { PlacementWatch } from "./watch-placement.ts";
import { type Deployed, deploy, openWorld, remove, smolMoe } from "./world.ts";

const namespace = "e2e-page";
const name = "paged";
/** A deployment beside it, of which a user of one namespace is not to see anything. */
const elsewhere = { namespace: "e2e-page-other", name: "unseen" };
const out = join(root, "out/page-cluster");
/** As it is from the first pod on: ranks are told the window, and another one would be a roll. */
const trigger = { imbalancePercent: 103, window: "3s", minTokens: 200 };
/** Expert replicas take seconds to come, which are long enough to be looked at. */
const slowly = { maxTransferBytesPerSecond: "3Mi" };
const patienceMs = 240_000;
const rollMs = 240_000;
const pagePort = 9466;
const probesPort = 9465;
const wide = { width: 1280, height: 900 };
/** Of text against its background, as WCAG 2 wants it. */
const contrastMin = 4.5;

let target: Target;
let moe: Deployed;
let browser: Browser;
let proxy: Forward;
let load: Load;
let page: Page;

explainFailures(() => moe);
before(
  async () => {
    mkdirSync(out, { recursive: true });
    target = await openWorld();
    moe = await deploy(target, namespace, smolMoe(name, { rebalancing: { mode: "Off", interval: "5s", trigger } }));
    await kubectlOf(target, elsewhere.namespace).apply(
      { apiVersion: "v1", kind: "Namespace", metadata: { name: elsewhere.namespace } },
      smolMoe(elsewhere.name, { replicas: 1, suspend: true }),
    );
    await installChart(target, openTo("Proxy"));
    proxy = await moe.kubectl.proxy();
    browser = await launchChromium();
    const { url } = await serviceAddress(target, moe.kubectl, { name, namespace });
    load = startLoad({ url: () => url, model: name, clients: 1, topic: "code" });
  },
  { timeout: 900_000 },
);
after(async () => {
  await load?.stop();
  await browser?.close();
  await proxy?.close();
  await kubectlOf(target, elsewhere.namespace).try(["delete", "moed", elsewhere.name]);
  if (moe) await remove(moe);
  await installChart(target);
});

/** The chart's values of a page that this cluster's API server alone may reach. */
function openTo(access: "Proxy" | "ClusterToken"): string[] {
  const apiServer = new URL(target.local?.server ?? "").hostname;
  return ["page.enabled=true", `page.access=${access}`, `page.from[0].ipBlock.cidr=${apiServer}/32`];
}

/** The address in the API server of the page, or of what is below it. */
const addressOf = (path: string): string => `${proxy.url}/api/v1/namespaces/${systemNamespace}/services/enodia-page:page/proxy/${path}`;
const deploymentPath = (layer?: number): string =>
  `deployment?namespace=${namespace}&name=${name}${layer === undefined ? "" : `&layer=${layer}`}`;

/** A failed script or a violation of the security policy fails the test, and so does a request to anywhere else. */
async function opened(path: string, options: Parameters<Browser["newPage"]>[0] = {}): Promise<Page> {
  const made = await browser.newPage({ viewport: wide, ...options });
  made.setDefaultTimeout(patienceMs);
  made.on("pageerror", (error) => assert.fail(`the page's script failed: ${error.stack}`));
  made.on("console", (message) => assert.doesNotMatch(message.text(), /Content Security Policy/));
  made.on("request", (request) => assert.ok(request.url().startsWith(`${addressOf("")}`), `asked ${request.url()}`));
  await made.goto(addressOf(path));
  return made;
}

const isLive = (of: Page): Promise<void> => of.locator("#live", { hasText: /^live$/ }).waitFor();
const says = (of: Page, section: string, words: RegExp): Promise<void> => of.locator(`#s-${section}`, { hasText: words }).waitFor();

/** The rows of a section's table; each is its cells as they are read. */
const rowsOf = (of: Page, section: string): Promise<readonly (readonly string[])[]> => of.evaluate(tableRows, `#s-${section}`);

async function status(...args: readonly string[]): Promise<any> {
  const command = ["operator/cli/main.ts", "status", ...args, "-o", "json", "--kubeconfig", target.kubeconfig ?? ""];
  return JSON.parse(await execOk(process.execPath, command, { cwd: root }));
}
const statusOfOne = async (): Promise<any> => (await status(name, "-n", namespace)).deployments[0];

async function isReadable(of: Page, what: string): Promise<void> {
  const { ratio, text } = await of.evaluate(leastContrast);
  assert.ok(ratio >= contrastMin, `${what}: the contrast of "${text}" is ${ratio.toFixed(2)}`);
  assert.ok((await of.evaluate(overflow)) <= 0, `${what}: it is wider than the screen`);
  assert.deepEqual(await of.evaluate(nameless), []);
}

test("the fleet behind the API server's proxy is that of enodia status", { timeout: 300_000 }, async () => {
  const fleet = await opened("", { colorScheme: "light" });
  await isLive(fleet);
  const { deployments } = await status("-A");
  const wanted = deployments.map(({ deployment: { metadata } }: any) => `${metadata.namespace}/${metadata.name}`);
  assert.ok(wanted.length >= 2);
  const shown = await rowsOf(fleet, "deployments");
  assert.deepEqual(shown.map(([who]) => who).sort(), wanted.sort());
  assert.equal(shown.find(([who]) => who === `${namespace}/${name}`)?.[2], "3/3");
  await isReadable(fleet, "fleet");
  await fleet.screenshot({ path: join(out, "fleet-light.png") });
  await fleet.close();
});

test("enodia page has it at a port of this machine, and ends with its signal", { timeout: 120_000 }, async () => {
  const args = ["operator/cli/main.ts", "page", "--port", "0", "--no-browser", "--kubeconfig", target.kubeconfig ?? ""];
  const command = spawn(process.execPath, args, { cwd: root, stdio: ["ignore", "pipe", "inherit"] });
  const [said] = await once(command.stdout, "data");
  const url = /http:\S+/.exec(String(said))?.[0] ?? "";
  assert.match(await (await fetch(`${url}${deploymentPath()}`)).text(), new RegExp(name));
  command.kill("SIGINT");
  assert.deepEqual(await once(command, "exit"), [0, null]);
});

test("load makes experts move, and the page that is open has each step without being loaded again", { timeout: 600_000 }, async () => {
  const watch = new PlacementWatch(moe);
  try {
    page = await opened(deploymentPath(), { colorScheme: "dark" });
    await isLive(page);
    await page.evaluate(() => {
      (globalThis as any).sameDocument = true;
    });
    const before = (await planOf(moe)).epoch;
    await patchRebalancing(moe, name, { mode: "Auto", budget: { maxMoves: 64, ...slowly } });
    await says(page, "placement", /Under way/);
    await page.screenshot({ path: join(out, "moving-dark.png"), fullPage: true });
    const committed = () =>
      until("a plan to be committed", () => [...watch.plans.keys()].find((epoch) => epoch > before && watch.committedAt(epoch)), {
        timeoutMs: patienceMs,
      });
    await committed();
    await page.waitForFunction(saysNot, ["#s-placement", "Under way"] as const);
    await patchRebalancing(moe, name, { mode: "Off", budget: null });
    const { epoch } = await settled();
    assert.equal(await page.evaluate(() => (globalThis as any).sameDocument), true);
    await page
      .locator("#s-moves li", { hasText: new RegExp(`epoch ${epoch}$`) })
      .first()
      .waitFor();
    await movesAreThoseOf(watch, before);
  } finally {
    await watch.close();
  }
});

/** Waits until no plan is under way, and the page has the epoch that the API server has. */
async function settled(): Promise<PlacementPlan> {
  await moe.kubectl.waitFor("eplace", name, "the plan to be committed", isCommitted, patienceMs);
  const plan = await planOf(moe);
  await says(page, "placement", new RegExp(`Epoch\\s*${plan.epoch}\\s*Committed`));
  return plan;
}
const isCommitted = ({ spec, status: of }: KubeObject): boolean => of?.phase === "Committed" && of.committedEpoch === spec.epoch;

/** Plans that follow within seconds are one for the page, whose move then bears the later epoch. */
async function movesAreThoseOf(watch: PlacementWatch, before: number): Promise<void> {
  const key = (layer: number, expert: number, rank: number): string => `${layer}/${expert}/${rank}`;
  const real = new Map<string, number>();
  for (const { epoch, moves } of watch.plansSince(before)) {
    const layers = watch.plans.get(epoch)?.layers ?? [];
    for (const { layer, expert, rank } of moves) {
      const of = key(layers[layer]?.layer ?? layer, expert, rank);
      if (!real.has(of)) real.set(of, epoch);
    }
  }
  const lines = await page.locator("#s-moves li").allTextContents();
  for (const line of lines) {
    const [, layer, expert, rank, epoch] = (/layer (\d+), expert (\d+): .* to rank (\d+) epoch (\d+)/.exec(line) ?? []).map(Number);
    if ((epoch ?? 0) <= before) continue; // of a roll, before the load
    const first = real.get(key(layer ?? -1, expert ?? -1, rank ?? -1));
    assert.ok(first !== undefined && first <= (epoch ?? 0), `${line}; moves seen: ${[...real.keys()].join(" ")}`);
  }
}

test("the map has each expert replica of the plan that the API server has, read cell by cell by the keyboard", {
  timeout: 300_000,
}, async () => {
  const [line = ""] = await page.locator("#s-moves li").allTextContents();
  const layer = Number(/layer (\d+)/.exec(line)?.[1]);
  await page.goto(addressOf(deploymentPath(layer)));
  await isLive(page);
  const plan = await settled();
  const hosts = plan.layers.find((one) => one.layer === layer)?.hosts ?? [];
  assert.equal(hosts.length, 8);
  await page.focus("#map");
  const ranks = [...new Set(plan.layers.flatMap((one) => one.hosts.flat()))].sort((a, b) => a - b);
  assert.equal(ranks.length, 3);
  for (const rank of ranks) {
    for (const [expert, row] of hosts.entries()) {
      const wanted = !row.includes(rank) ? "does not have it" : row[0] === rank ? "primary" : "expertReplica";
      const words = (await page.textContent("#map-cell")) ?? "";
      assert.ok(words.startsWith(`Rank ${rank}, expert ${expert}`) && words.includes(`: ${wanted}`), `${words} ${row}`);
      await page.keyboard.press("ArrowRight");
    }
    for (const _ of hosts) await page.keyboard.press("ArrowLeft");
    await page.keyboard.press("ArrowDown");
  }
  await page.emulateMedia({ colorScheme: "light" });
  await isReadable(page, "deployment, light");
  await page.screenshot({ path: join(out, "deployment-light.png"), fullPage: true });
});

test("decisions and ranks are those of enodia status", { timeout: 300_000 }, async () => {
  const same = async (): Promise<true> => {
    const { placement, ranks } = await statusOfOne();
    const { reason, message } = placement.status.decision;
    assert.notEqual(reason, "Interval", "the time between two plans decides nothing, and is not kept");
    const decisions = (await page.locator("#s-decisions li").allTextContents()).join("\n");
    assert.ok(decisions.includes(reason) && decisions.includes(message), `${reason} ${message}; the page:\n${decisions}`);
    const shown = await rowsOf(page, "ranks");
    assert.deepEqual(
      shown.map((cells) => [...cells.slice(0, 4), cells.at(-1)]),
      ranks.map(({ rank, pod, node, state, epoch }: any) => [`${rank}`, pod, node, state, `${epoch}`]),
    );
    return true;
  };
  await until("the page to agree with enodia status", same, { timeoutMs: 60_000, everyMs: 1_000 });
});

test("a roll is on the page while it goes, and among the operations when it has ended", { timeout: 600_000 }, async () => {
  const annotations = { "example.com/rolled": "once" };
  await patchSpec(moe, { podTemplate: { metadata: { annotations } } });
  await says(page, "head", /Rollout.*of 3 ranks serve with revision/s);
  const { deployment } = await statusOfOne();
  await says(page, "head", new RegExp(`revision ${deployment.status.rollout.revision}`));
  await page.screenshot({ path: join(out, "rolling-light.png"), fullPage: true });
  await waitReady(moe.kubectl, name, rollMs);
  const complete = ({ status: of }: KubeObject): boolean => of?.rollout?.phase === "Complete" && of.operation === undefined;
  await moe.kubectl.waitFor("moed", name, "the roll to be complete", complete, rollMs);
  const same = async (): Promise<true> => {
    const { history } = (await statusOfOne()).deployment.status;
    const shown = await rowsOf(page, "operations");
    assert.deepEqual(
      shown.map(([id, result]) => `${id} ${result}`),
      history.map(({ id, result }: any) => `${id} ${result}`),
    );
    assert.ok(shown.some(([id]) => id?.startsWith("roll-")));
    return true;
  };
  await until("the page to have the operations of enodia status", same, { timeoutMs: 60_000, everyMs: 1_000 });
  await page.screenshot({ path: join(out, "rolled-light.png"), fullPage: true });
});

const node24 = "/usr/local/bin/node";

/** A pod of another namespace on another node than the operator's: pods of one node reach each other by its bridge. */
async function neighbour(): Promise<{ asks: (port: number) => Promise<string> }> {
  const [operator] = await kubectlOf(target, systemNamespace).list("pods", "app.kubernetes.io/component=operator");
  const node = target.local?.nodes.find((one) => one.name !== operator?.spec.nodeName)?.name;
  const securityContext = { allowPrivilegeEscalation: false, runAsNonRoot: true, capabilities: { drop: ["ALL"] } };
  const kubectl = kubectlOf(target, elsewhere.namespace);
  const command = [node24, "-e", "setInterval(() => {}, 1e6)"];
  const container = { name: "neighbour", image: "enodia/operator:dev", imagePullPolicy: "IfNotPresent", command, securityContext };
  const spec = { nodeName: node, terminationGracePeriodSeconds: 0, automountServiceAccountToken: false, containers: [container] };
  await kubectl.apply({ apiVersion: "v1", kind: "Pod", metadata: { name: "neighbour" }, spec });
  await kubectl.run(["wait", "--for=condition=Ready", "pod/neighbour", "--timeout=90s"]);
  const script = (port: number): string =>
    `fetch("http://${operator?.status.podIP}:${port}/healthz", {signal: AbortSignal.timeout(5000)}).then(() => console.log("answered"), (e) => console.log(e.name))`;
  return { asks: async (port) => (await kubectl.run(["exec", "neighbour", "--", node24, "-e", script(port)])).trim() };
}

/** The program that enforces policies takes minutes to build where nobody has it. */
const enforcedMs = 1_500_000;

test("a network that takes policies keeps a pod elsewhere out, and lets the API server in", { timeout: enforcedMs }, async () => {
  const { asks } = await neighbour();
  assert.deepEqual([await asks(pagePort), await asks(probesPort)], ["answered", "answered"], "no network policy holds yet");
  const enforcer = await enforceNetworkPolicies(target, (line) => void process.stderr.write(`# ${line}\n`));
  try {
    const kept = async () => ((await asks(pagePort)) === "TimeoutError" ? true : undefined);
    await until("the pod to be kept out", kept, { timeoutMs: 60_000 });
    assert.equal(await asks(probesPort), "answered", "other ports are open");
    await page.goto(addressOf(""));
    await isLive(page);
    await says(page, "deployments", new RegExp(`${namespace}/${name}`));
    await waitReady(moe.kubectl, name);
  } finally {
    await enforcer.stop();
  }
  assert.equal(await asks(pagePort), "answered", "it was the policy");
});

test("users of the cluster sign in by tokens of theirs, and see the namespaces that they may list", { timeout: 400_000 }, async () => {
  await installChart(target, openTo("ClusterToken"));
  const reader = { apiVersion: "rbac.authorization.k8s.io/v1", metadata: { name: "reader" } };
  const rules = [{ apiGroups: ["enodia.dev"], resources: ["moedeployments"], verbs: ["list"] }];
  const roleRef = { apiGroup: "rbac.authorization.k8s.io", kind: "Role", name: "reader" };
  await moe.kubectl.apply(
    { apiVersion: "v1", kind: "ServiceAccount", metadata: { name: "reader" } },
    { ...reader, kind: "Role", rules },
    { ...reader, kind: "RoleBinding", roleRef, subjects: [{ kind: "ServiceAccount", namespace, name: "reader" }] },
  );
  const token = (await moe.kubectl.run(["create", "token", "reader"])).trim();
  const user = await opened("");
  await user.fill("#token", token);
  await user.keyboard.press("Enter");
  await isLive(user);
  assert.deepEqual(
    (await rowsOf(user, "deployments")).map(([who]) => who),
    [`${namespace}/${name}`],
  );
  await user.screenshot({ path: join(out, "fleet-of-a-user.png") });
  const unseen = addressOf(`deployment?namespace=${elsewhere.namespace}&name=${elsewhere.name}`);
  const answer = async (): Promise<number | undefined> => {
    const code = (await user.goto(unseen))?.status();
    return code === 503 ? undefined : code; // a replica that does not lead says nothing
  };
  assert.equal(await until("an answer of the leader", answer, { timeoutMs: 30_000 }), 404);
  assert.equal(load.counts.failed, 0, load.errors[0]);
});
