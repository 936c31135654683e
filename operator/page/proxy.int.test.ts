// The page behind the proxy of a real API server: relative addresses, the session's cookie, and events as they come; what the proxy tells
// of who asks; and what users see whose rights are the server's.
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { createServer, request, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { after, before, test } from "node:test";
import { silentLog } from "../../runtime/observe/log.ts";
import { down, open } from "../../test/cluster/cluster.ts";
import { type ControlPlane, controlPlane } from "../../test/integration/control-plane.ts";
import { bearersRights } from "../kube/access-review.ts";
import { bearerTransport, loadKubeConfig } from "../kube/transport.ts";
import { type PageServer, servePage } from "./server.ts";
import { PageState } from "./state.ts";

const name = "page-int";
const namespace = "enodia-system";
const secret = "correct-horse-battery";
const state = { message: "it is well" };
let plane: ControlPlane;
let server: PageServer;
let users: PageServer;
let echo: Server;
let proxy: ChildProcess | undefined;
let services: string;
let base: string;

const moed = (of = "ns") => {
  const conditions = [
    { type: "Ready", status: "True", reason: "Fine", message: state.message, lastTransitionTime: "2026-03-01T10:00:00Z" },
  ];
  const metadata = { namespace: of, name: `of-${of}`, uid: `u-${of}` };
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
    plane = await controlPlane(name, 0);
    const pageState = new PageState({
      cache: { list: (kind) => (kind === "moeDeployments" ? [moed(), moed("team-a"), moed("team-b")] : []) },
      warnings: { of: () => ({ events: [], unread: [] }) },
      now: Date.now,
    });
    pageState.lead({ placement: () => undefined });
    server = await servePage({
      pageState,
      access: "Token",
      port: 0,
      token: async () => secret,
      rightsOf: () => async () => false,
      log: silentLog,
      now: Date.now,
    });
    const rightsOf = bearersRights(loadKubeConfig(open(name).kubeconfig, undefined));
    users = await servePage({
      pageState,
      access: "ClusterToken",
      port: 0,
      token: async () => undefined,
      rightsOf,
      log: silentLog,
      now: Date.now,
    });
    echo = createServer((asked, answer) => void answer.end(JSON.stringify(asked.headers)));
    await new Promise<void>((resolve) => echo.listen(0, resolve));
    // An API server passes requests to addresses of pods alone, and to none of the loopback. This pod runs here.
    const ip = new URL(plane.cluster.server).hostname;
    const metadata = { namespace, name: "enodia-page" };
    const served = [
      { name: "page", port: server.port },
      { name: "users", port: users.port },
      { name: "echo", port: (echo.address() as AddressInfo).port },
    ];
    const targetRef = { kind: "Pod", ...metadata };
    const spec = { schedulerName: "nobody", serviceAccountName: metadata.name, containers: [{ name: "operator", image: "operator" }] };
    await plane.apply(
      { apiVersion: "v1", kind: "Namespace", metadata: { name: namespace } },
      { apiVersion: "v1", kind: "ServiceAccount", metadata },
      { apiVersion: "v1", kind: "Pod", metadata, spec },
      { apiVersion: "v1", kind: "Service", metadata, spec: { ports: served.map(({ name }, i) => ({ name, port: 9466 + i })) } },
      {
        apiVersion: "v1",
        kind: "Endpoints",
        metadata,
        subsets: [{ addresses: [{ ip, targetRef }], ports: served }],
      },
    );
    const status = JSON.stringify({ status: { podIP: ip, podIPs: [{ ip }] } });
    await plane.kubectl("patch", "pod", metadata.name, "-n", namespace, "--subresource=status", "--type=merge", "-p", status);
    const { binaries, kubeconfig } = open(name);
    services = `http://${await kubectlProxy(binaries.kubectl, kubeconfig)}/api/v1/namespaces/${namespace}/services/`;
    base = `${services}enodia-page:page/proxy/`;
  },
  { timeout: 600_000 },
);
after(async () => {
  proxy?.kill();
  await Promise.all([server?.close(), users?.close()]);
  echo?.close();
  await down(name);
});

interface Asked {
  readonly method?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
  /** Told what the answer has said so far, whenever it has said more; true: it is ended. */
  readonly enough?: (said: string) => boolean;
}

function ask(path: string, { enough, body, ...options }: Asked = {}) {
  return new Promise<{ status: number; headers: Record<string, string | string[] | undefined>; body: string }>((resolve, reject) => {
    const asked = request(new URL(path, base), options, (response) => {
      let said = "";
      const answer = () => resolve({ status: response.statusCode ?? 0, headers: response.headers, body: said });
      response.on("data", (chunk) => {
        said += chunk;
        if (!enough?.(said)) return;
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
  const enough = (said: string) => {
    if (said.includes("it is well")) state.message = "it is better";
    return said.includes("it is better");
  };
  assert.match((await ask(events, { headers: { cookie }, enough })).body, /it is well.*it is better/s);
});

/** Gives a ServiceAccount a right in one namespace. */
async function grant(who: string, of: string, rule: object): Promise<void> {
  const metadata = { namespace: of, name: who };
  const rbac = { apiVersion: "rbac.authorization.k8s.io/v1", metadata };
  const roleRef = { apiGroup: "rbac.authorization.k8s.io", kind: "Role", name: who };
  await plane.apply(
    { apiVersion: "v1", kind: "Namespace", metadata: { name: of } },
    { ...rbac, kind: "Role", rules: [rule] },
    { ...rbac, kind: "RoleBinding", roleRef, subjects: [{ kind: "ServiceAccount", namespace, name: who }] },
  );
}

/** The token of a user of the cluster who has no rights yet. */
async function user(who: string): Promise<string> {
  await plane.apply({ apiVersion: "v1", kind: "ServiceAccount", metadata: { namespace, name: who } });
  return (await plane.kubectl("create", "token", who, "-n", namespace)).trim();
}

test("the API server's proxy tells nothing of who asks, so that access Proxy cannot know it", { timeout: 600_000 }, async () => {
  const token = await user("asking");
  await grant("asking", namespace, { apiGroups: [""], resources: ["services/proxy"], verbs: ["get"] });
  const path = `/api/v1/namespaces/${namespace}/services/enodia-page:echo/proxy/`;
  const asking = bearerTransport(loadKubeConfig(open(name).kubeconfig, undefined), token);
  const heard = await asking.request({ method: "GET", path });
  assert.ok(JSON.parse(heard).host, heard);
  for (const word of ["asking", token, "authorization", "x-remote", "impersonate"]) assert.ok(!heard.includes(word), heard);
});

test("users of the cluster see the namespaces whose deployments they may list, and no others", { timeout: 600_000 }, async () => {
  const [ann, eve] = [await user("ann"), await user("eve")];
  await grant("ann", "team-a", { apiGroups: ["enodia.dev"], resources: ["moedeployments"], verbs: ["list"] });
  const at = `${services}enodia-page:users/proxy/`;
  const signIn = async (token: string) => ask(`${at}sign-in`, { method: "POST", body: new URLSearchParams({ token }).toString() });
  assert.equal((await signIn("no.such-token")).status, 401);
  const signed = await signIn(ann);
  assert.equal(signed.status, 303, signed.body);
  const headers = { cookie: String(signed.headers["set-cookie"]).split(";", 1)[0] ?? "" };
  const page = await ask(at, { headers });
  assert.deepEqual([page.body.includes("of-team-a"), page.body.includes("of-team-b"), page.body.includes("of-ns")], [true, false, false]);
  const statusOf = async (of: string) => (await ask(`${at}deployment?namespace=${of}&name=of-${of}`, { headers })).status;
  assert.deepEqual([await statusOf("team-a"), await statusOf("team-b")], [200, 404]);
  const events = await ask(`${at}events`, { headers, enough: (said) => said.includes("of-team-a") });
  assert.doesNotMatch(events.body, /of-team-b|of-ns/);
  const nothing = await signIn(eve);
  const cookie = String(nothing.headers["set-cookie"]).split(";", 1)[0] ?? "";
  assert.doesNotMatch((await ask(at, { headers: { cookie } })).body, /of-team-|of-ns/);
});
