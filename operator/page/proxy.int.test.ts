// The page behind the proxy of a real API server: relative addresses, the session's cookie, and events as they come.
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { request } from "node:http";
import { after, before, test } from "node:test";
import { silentLog } from "../../runtime/observe/log.ts";
import { down, open } from "../../test/cluster/cluster.ts";
import { controlPlane } from "../../test/integration/control-plane.ts";
import { Board } from "./board.ts";
import { type PageServer, servePage } from "./server.ts";

const name = "page-int";
const namespace = "enodia-system";
const secret = "correct-horse-battery";
const state = { message: "it is well" };
let server: PageServer;
let proxy: ChildProcess | undefined;
let base: string;

const moed = () => {
  const conditions = [
    { type: "Ready", status: "True", reason: "Fine", message: state.message, lastTransitionTime: "2026-03-01T10:00:00Z" },
  ];
  const metadata = { namespace: "ns", name: "a", uid: "u" };
  return { apiVersion: "x", kind: "MoEDeployment", metadata, spec: { model: { uri: "pvc://m/x" } }, status: { conditions } };
};

/** `kubectl proxy`, which says where it listens. */
async function kubectlProxy(kubectl: string, kubeconfig: string): Promise<string> {
  proxy = spawn(kubectl, ["--kubeconfig", kubeconfig, "proxy", "--port=0"], { stdio: ["ignore", "pipe", "inherit"] });
  let said = "";
  for await (const chunk of proxy.stdout ?? []) {
    said += chunk;
    const at = /Starting to serve on (\S+)/.exec(said)?.[1];
    if (at) return at;
  }
  return assert.fail(`kubectl proxy has ended: ${said}`);
}

before(
  async () => {
    const plane = await controlPlane(name, 0);
    const board = new Board({ cache: { list: (kind) => (kind === "moeDeployments" ? [moed()] : []) }, now: Date.now });
    board.lead({ picture: () => undefined });
    server = await servePage({ board, access: "Token", port: 0, token: async () => secret, log: silentLog });
    // An API server passes requests to addresses of pods alone, and to none of the loopback. This pod runs here.
    const ip = new URL(plane.cluster.server).hostname;
    const metadata = { namespace, name: "enodia-page" };
    const targetRef = { kind: "Pod", ...metadata };
    const spec = { schedulerName: "nobody", containers: [{ name: "operator", image: "operator" }] };
    await plane.apply(
      { apiVersion: "v1", kind: "Namespace", metadata: { name: namespace } },
      { apiVersion: "v1", kind: "ServiceAccount", metadata: { namespace, name: "default" } },
      { apiVersion: "v1", kind: "Pod", metadata, spec },
      { apiVersion: "v1", kind: "Service", metadata, spec: { ports: [{ name: "page", port: 9466 }] } },
      {
        apiVersion: "v1",
        kind: "Endpoints",
        metadata,
        subsets: [{ addresses: [{ ip, targetRef }], ports: [{ name: "page", port: server.port }] }],
      },
    );
    const status = JSON.stringify({ status: { podIP: ip, podIPs: [{ ip }] } });
    await plane.kubectl("patch", "pod", metadata.name, "-n", namespace, "--subresource=status", "--type=merge", "-p", status);
    const { binaries, kubeconfig } = open(name);
    base = `http://${await kubectlProxy(binaries.kubectl, kubeconfig)}/api/v1/namespaces/${namespace}/services/enodia-page:page/proxy/`;
  },
  { timeout: 600_000 },
);
after(async () => {
  proxy?.kill();
  await server?.close();
  await down(name);
});

interface Asked {
  readonly method?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
  /** Ends the answer once it has said this. */
  readonly enough?: () => string;
}

function ask(path: string, { enough, body, ...options }: Asked = {}) {
  return new Promise<{ status: number; headers: Record<string, string | string[] | undefined>; body: string }>((resolve, reject) => {
    const asked = request(new URL(path, base), options, (response) => {
      let said = "";
      const answer = () => resolve({ status: response.statusCode ?? 0, headers: response.headers, body: said });
      response.on("data", (chunk) => {
        said += chunk;
        if (!enough || !said.includes(enough())) return;
        answer();
        response.destroy();
      });
      response.on("end", answer);
      response.on("error", reject);
    });
    asked.on("error", reject);
    asked.end(body);
  });
}

test("who has signed in behind the API server's proxy reads the page, its files and its events there", { timeout: 600_000 }, async () => {
  const closed = await ask("./");
  assert.equal(closed.status, 401, closed.body);
  assert.match(closed.body, /action="\.\/sign-in"/);
  const signed = await ask("./sign-in", { method: "POST", body: `token=${secret}` });
  assert.deepEqual([signed.status, signed.headers.location], [303, "./"]);
  const cookie = String(signed.headers["set-cookie"]).split(";", 1)[0] ?? "";
  const page = await ask("./", { headers: { cookie } });
  assert.ok(page.status === 200 && page.body.includes("it is well"), page.body);
  assert.match(String(page.headers["content-security-policy"]), /default-src 'none'/);
  for (const [, file = ""] of page.body.matchAll(/(?:href|src)="(\.\/page\.\w+)"/g))
    assert.equal((await ask(file, { headers: { cookie } })).status, 200, file);
  const link = /href="(\.\/deployment\?[^"]*)"/.exec(page.body)?.[1]?.replaceAll("&amp;", "&") ?? "";
  assert.equal((await ask(link, { headers: { cookie } })).status, 200);
  const events = /data-events="([^"]*)"/.exec(page.body)?.[1]?.replaceAll("&amp;", "&") ?? "";
  const stream = ask(events, { headers: { cookie }, enough: () => "it is better" });
  await ask(events, { headers: { cookie }, enough: () => "it is well" });
  state.message = "it is better";
  assert.match((await stream).body, /it is well.*it is better/s);
});
