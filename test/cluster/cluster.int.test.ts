// A real cluster of two nodes from start to end: pods, network, storage, failures, and that nothing stays behind. Needs root on Linux.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { cgroupPids } from "./cgroups.ts";
import { addNode, type Cluster, cutLink, down, healLink, killNode, loadImage, open, startNode, status, up } from "./cluster.ts";
import { run, sleep, waitFor } from "./exec.ts";
import { buildImage } from "./image.ts";
import { headlessService, hostVolume, podProgram, testPod, testService } from "./int-pod.ts";
import { nodeLayer } from "./product-images.ts";
import { namesOf, readState } from "./state.ts";
import { leftovers } from "./teardown.ts";

const name = "inttest";
const image = "enodia/cluster-test:1";
const reason = process.platform !== "linux" || process.getuid?.() !== 0 ? "the local cluster needs root on Linux" : false;

let cluster: Cluster;
let folder: string;

const kubectl = (args: string[], options: { input?: string; allowFailure?: boolean } = {}) =>
  run(cluster.binaries.kubectl, ["--kubeconfig", cluster.kubeconfig, "-n", "probe", ...args], options);
const apply = (objects: object[]) =>
  kubectl(["apply", "-f", "-"], { input: JSON.stringify({ apiVersion: "v1", kind: "List", items: objects }) });
const getJson = async (...args: string[]) => JSON.parse((await kubectl(["get", ...args, "-o", "json"])).stdout);

async function podAddress(pod: string): Promise<string> {
  return (await getJson("pod", pod)).status.podIP;
}

async function ask(address: string, path: string): Promise<any> {
  const answer = await fetch(`http://${address}${path}`, { signal: AbortSignal.timeout(8000) });
  const body = (await answer.json()) as any;
  assert.equal(answer.status, 200, JSON.stringify(body));
  return body;
}

const askPod = async (pod: string, path: string) => ask(`${await podAddress(pod)}:8080`, path);

async function nodeReady(node: string): Promise<string> {
  const { conditions } = (await getJson("node", node)).status;
  return conditions.find((one: { type: string }) => one.type === "Ready").status;
}

/** SIGKILL to a process that may have ended by itself. */
function killIfThere(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

const waitReady = (node: string, want: (status: string) => boolean) =>
  waitFor(`${node} to change`, { timeoutMs: 60_000, everyMs: 500 }, async () => (want(await nodeReady(node)) ? true : undefined));

/** The traces that a cluster may leave on a machine, as text that can be compared. Clusters of other names are not looked at. */
async function machine(): Promise<Record<string, string>> {
  const of = async (command: string, ...args: string[]) => (await run(command, args, { allowFailure: true })).stdout;
  const cgroups = readdirSync("/sys/fs/cgroup").flatMap((hierarchy) => {
    const path = join("/sys/fs/cgroup", hierarchy);
    return existsSync(join(path, `enodia-${name}`)) ? [path] : [];
  });
  return {
    links: (await of("ip", "-o", "link")).replaceAll(/^\d+: /gm, "").replaceAll(/@if\d+/g, ""),
    routes: await of("ip", "route"),
    namespaces: (await of("ip", "netns", "list")).replaceAll(/ \(id: \d+\)/g, ""),
    mounts: readFileSync("/proc/self/mounts", "utf8"),
    nft: await of("nft", "list", "ruleset"),
    cgroups: cgroups.join(),
    settings: await of(
      "sysctl",
      "vm.overcommit_memory",
      "vm.panic_on_oom",
      "kernel.panic",
      "kernel.panic_on_oops",
      "kernel.keys",
      "fs.inotify",
    ),
    processes: (await of("ps", "-eo", "args"))
      .split("\n")
      .filter((line) => line.includes(`/${name}/`))
      .join("\n"),
  };
}

describe("a local cluster", { skip: reason }, () => {
  let clean: Record<string, string>;

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), "enodia-cluster-"));
    await down(name);
    clean = await machine();
    cluster = await up({ name, nodes: 2 });
    const out = join(folder, "probe.tar");
    const layers = [await nodeLayer(), { files: [{ path: "/app/probe.mjs", content: podProgram }] }];
    await buildImage({ ref: image, layers, config: { entrypoint: ["/usr/local/bin/node"], user: "65532:65532" }, out });
    await loadImage(name, out);
    mkdirSync(join(folder, "data"), { mode: 0o777 });
    writeFileSync(join(folder, "data", "greeting"), "from the host");
    await run("chmod", ["777", join(folder, "data")]);
    const enforce = { "pod-security.kubernetes.io/enforce": "restricted" };
    await apply([{ apiVersion: "v1", kind: "Namespace", metadata: { name: "probe", labels: enforce } }]);
    await waitFor("the namespace to have its service account", { timeoutMs: 20_000 }, async () =>
      (await kubectl(["get", "serviceaccount", "default"], { allowFailure: true })).code === 0 ? true : undefined,
    );
    await apply([
      ...hostVolume("data", join(folder, "data")),
      testPod("one", `${name}-1`, image, "data"),
      testPod("two", `${name}-2`, image, "data"),
      testService("service-one", "one"),
      testService("service-two", "two"),
      headlessService,
    ]);
    await kubectl(["wait", "--for=condition=Ready", "pod/one", "pod/two", "--timeout=60s"]);
  });

  after(async () => {
    await down(name);
    rmSync(folder, { recursive: true, force: true });
  });

  test("runs the pinned Kubernetes with one zone per node", async () => {
    const nodes = (await getJson("nodes")).items;
    const shown = nodes.map((node: any) => [
      node.metadata.name,
      node.status.nodeInfo.kubeletVersion,
      node.metadata.labels["topology.kubernetes.io/zone"],
    ]);
    assert.deepEqual(shown, [
      [`${name}-1`, "v1.36.3", "z1"],
      [`${name}-2`, "v1.36.3", "z2"],
    ]);
    assert.equal(open(name).kubeconfig, cluster.kubeconfig);
  });

  test("a second up of a running cluster is refused and leaves it alone", async () => {
    await assert.rejects(up({ name, nodes: 2 }), /is up already/);
    assert.equal(await nodeReady(`${name}-1`), "True");
  });

  test("the host reaches pods on every node at their own addresses, as the image’s user", async () => {
    assert.deepEqual(await askPod("one", "/"), { pod: "one", node: `${name}-1`, uid: 65532 });
    assert.deepEqual(await askPod("two", "/"), { pod: "two", node: `${name}-2`, uid: 65532 });
  });

  test("a pod reaches a service whose only pod is on the other node, by name, both ways, and its own service", async () => {
    for (const [from, to] of [
      ["one", "two"],
      ["two", "one"],
      ["one", "one"],
    ] as const) {
      const url = encodeURIComponent(`http://service-${to}.probe.svc.cluster.local/`);
      // A pod is Ready a moment before the proxies of all nodes know it.
      const answer = await waitFor(`${from} to reach ${to}`, { timeoutMs: 15_000, everyMs: 300 }, () =>
        askPod(from, `/fetch?url=${url}`).catch(() => undefined),
      );
      assert.equal(answer.pod, to);
    }
  });

  test("headless service names resolve to pods, alone and all together", async () => {
    const [one, two] = [await podAddress("one"), await podAddress("two")];
    assert.deepEqual(await askPod("one", "/resolve?name=two.probes"), [two]);
    assert.deepEqual(await askPod("two", "/resolve?name=probes"), [one, two].sort());
  });

  test("a pod reaches the API server as kubernetes.default.svc and is held to its rights", async () => {
    const version = await askPod("two", "/api?path=/version");
    assert.equal(JSON.parse(version.body).gitVersion, "v1.36.3");
    assert.equal((await askPod("one", "/api?path=/api/v1/namespaces/probe/secrets")).status, 403);
  });

  test("a node port answers on every node’s address", async () => {
    const port = (await getJson("service", "service-two")).spec.ports[0].nodePort;
    for (const node of cluster.nodes) assert.equal((await ask(`${node.address}:${port}`, "/")).pod, "two");
  });

  test("the host reaches a service at its own address, also when the node on its way is cut off", async () => {
    const { clusterIP } = (await getJson("service", "service-two")).spec;
    assert.equal((await ask(`${clusterIP}:80`, "/")).pod, "two");
    await cutLink(name, `${name}-1`);
    try {
      await waitFor("the other way", { timeoutMs: 30_000, everyMs: 300 }, async () =>
        (await ask(`${clusterIP}:80`, "/").catch(() => undefined))?.pod === "two" ? true : undefined,
      );
    } finally {
      await healLink(name, `${name}-1`);
    }
    await waitReady(`${name}-1`, (ready) => ready === "True");
    await waitFor("pod one to answer", { timeoutMs: 20_000 }, () => askPod("one", "/").catch(() => undefined));
  });

  test("a host folder is shared through a claim", async () => {
    assert.deepEqual(await askPod("one", "/read?file=/data/greeting"), { text: "from the host" });
    await askPod("two", "/write?file=/data/answer&text=pod");
    assert.equal(readFileSync(join(folder, "data", "answer"), "utf8"), "pod");
    assert.deepEqual(await askPod("one", "/read?file=/data/answer"), { text: "pod" });
  });

  test("logs and exec work, and image arguments reach the program", async () => {
    assert.match((await kubectl(["logs", "one"])).stdout, /listening on inttest-1/);
    const { stdout } = await kubectl(["exec", "two", "--", "/usr/local/bin/node", "-p", "6 * 7"]);
    assert.equal(stdout.trim(), "42");
  });

  test("pod security refuses a privileged pod in a restricted namespace", async () => {
    const pod: any = testPod("bad", `${name}-1`, image);
    pod.spec.containers[0].securityContext = { privileged: true };
    const result = await kubectl(["apply", "-f", "-"], { input: JSON.stringify(pod), allowFailure: true });
    assert.notEqual(result.code, 0);
    assert.match(result.stderr, /violates PodSecurity "restricted/);
  });

  test("memory a container holds shows in the kubelet’s statistics, and the limit kills", async () => {
    const used = async () => {
      const { stdout } = await kubectl(["get", "--raw", `/api/v1/nodes/${name}-1/proxy/stats/summary`]);
      const pod = JSON.parse(stdout).pods.find((one: any) => one.podRef.name === "one");
      return pod.containers[0].memory.workingSetBytes as number;
    };
    const start = await used();
    await askPod("one", "/hold?mib=100");
    await waitFor("the statistics to show 100 MiB more", { timeoutMs: 40_000, everyMs: 1000 }, async () =>
      (await used()) > start + 90 * 1048576 ? true : undefined,
    );
    await askPod("one", "/hold?mib=200").catch(() => undefined);
    await waitFor("the container to be restarted", { timeoutMs: 40_000, everyMs: 500 }, async () => {
      const [container] = (await getJson("pod", "one")).status.containerStatuses;
      return container.restartCount === 1 && container.ready ? true : undefined;
    });
    const [container] = (await getJson("pod", "one")).status.containerStatuses;
    assert.equal(container.lastState.terminated.reason, "OOMKilled");
  });

  test("a node whose link is cut becomes NotReady while its processes run on, and Ready when healed", async () => {
    const cgroup = `enodia-${name}/${name}-2`;
    await cutLink(name, `${name}-2`);
    assert.equal(status(name)[0]?.nodes[1]?.link, "cut");
    await waitReady(`${name}-2`, (ready) => ready !== "True");
    assert.ok(cgroupPids(cgroup).length > 3);
    await healLink(name, `${name}-2`);
    await waitReady(`${name}-2`, (ready) => ready === "True");
    await waitFor("pod two to answer", { timeoutMs: 20_000 }, () => askPod("two", "/").catch(() => undefined));
  });

  test("a killed node ends with all its containers, is NotReady, and comes back with its pods", async () => {
    const cgroup = `enodia-${name}/${name}-2`;
    await killNode(name, `${name}-2`);
    assert.deepEqual(cgroupPids(cgroup), []);
    assert.equal(status(name)[0]?.nodes[1]?.power, "off");
    await assert.rejects(cutLink(name, `${name}-2`), /is off/);
    await waitReady(`${name}-2`, (ready) => ready !== "True");
    await startNode(name, `${name}-2`);
    assert.equal(await nodeReady(`${name}-2`), "True");
    await waitFor("pod two to answer again", { timeoutMs: 60_000, everyMs: 500 }, async () =>
      (await askPod("two", "/").catch(() => undefined))?.pod === "two" ? true : undefined,
    );
    const url = encodeURIComponent("http://service-two.probe.svc/");
    await waitFor("the service to follow", { timeoutMs: 20_000, everyMs: 300 }, async () =>
      (await askPod("one", `/fetch?url=${url}`).catch(() => undefined))?.pod === "two" ? true : undefined,
    );
  });

  test("an added node is Ready and has the images loaded before", async () => {
    const node = await addNode(name);
    assert.equal(node.name, `${name}-3`);
    await apply([testPod("three", node.name, image)]);
    await kubectl(["wait", "--for=condition=Ready", "pod/three", "--timeout=60s"]);
    const url = encodeURIComponent("http://service-two.probe.svc/");
    assert.equal((await askPod("three", `/fetch?url=${url}`)).pod, "two");
  });

  test("a second cluster lives beside the first and goes without touching it", async () => {
    const other = await up({ name: `${name}-b`, nodes: 1 });
    try {
      const { stdout } = await run(other.binaries.kubectl, ["--kubeconfig", other.kubeconfig, "get", "nodes", "-o", "name"]);
      assert.equal(stdout.trim(), `node/${name}-b-1`);
      assert.equal(await nodeReady(`${name}-1`), "True");
    } finally {
      await down(other.name);
    }
    assert.equal((await askPod("one", "/")).pod, "one");
  });

  test("an unknown node or cluster is named with what there is", async () => {
    await assert.rejects(killNode(name, `${name}-9`), /has no node "inttest-9": it has inttest-1, inttest-2, inttest-3/);
    assert.throws(() => open("nosuch"), /no cluster "nosuch".*inttest/);
  });

  test("down leaves nothing on the machine, and up after a run that died clears what that left", async () => {
    const state = readState(name);
    assert.ok(state !== undefined);
    // A dead run: its processes are gone, everything else is still there.
    // (Killing one may end others first, a shim with its kubelet, so a pid may already be gone.)
    for (const pid of cgroupPids(namesOf(state).cgroup)) killIfThere(pid);
    await sleep(500);
    assert.ok(leftovers(state).length > 3);
    cluster = await up({ name, nodes: 1 });
    assert.equal(await nodeReady(`${name}-1`), "True");
    const again = readState(name);
    assert.ok(again !== undefined);
    assert.equal(await down(name), true);
    assert.deepEqual([...leftovers(state), ...leftovers(again)], []);
    assert.deepEqual(await machine(), clean);
    assert.equal(await down(name), false);
  });

  test("an interrupted up cleans up after itself", async () => {
    const child = spawn(process.execPath, [join(import.meta.dirname, "cli.ts"), "up", "--name", name, "--nodes", "2"], { stdio: "ignore" });
    const ended = new Promise<number | null>((resolve) => child.on("exit", resolve));
    await waitFor("the run to have processes", { timeoutMs: 30_000, everyMs: 50 }, async () =>
      (readState(name)?.control.length ?? 0) > 0 ? true : undefined,
    );
    child.kill("SIGINT");
    assert.equal(await ended, 130);
    assert.deepEqual(await machine(), clean);
  });
});
