// The operator's question to a pod that downloads, against pods that answer as strangers may: what cannot be read is no answer, and holds
// nobody up.

import assert from "node:assert/strict";
import { createServer, type Server } from "node:https";
import type { AddressInfo } from "node:net";
import { after, test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import type { DownloadProgress } from "../../../crds/download.ts";
import { createTestCa } from "../../../test/kit/network/certs.ts";
import { askProgress, DownloadPolls, type ProgressQuestion } from "./download-progress.ts";
import { Records } from "./records.ts";

const ca = createTestCa();
const ref = { namespace: "ns", name: "moe" };
const owner = { ...ref, uid: "uid-moe" };
const pem = (member: string) => {
  const { cert, key, ca: bundle } = ca.issue(member, "ns", "moe").current();
  return { cert: cert.toString(), key: key.toString(), ca: bundle.toString() };
};
const identity = pem("operator");
const servers: Server[] = [];
after(() => {
  for (const server of servers) {
    server.close();
    server.closeAllConnections();
  }
});

async function ask(body: string | Buffer, { status = 200, member = "downloader" } = {}): Promise<DownloadProgress | undefined> {
  const server = createServer({ ...pem(member), requestCert: true }, (_, response) => response.writeHead(status).end(body));
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return askProgress({ owner, uid: "pod", ip: "127.0.0.1", identity }, (server.address() as AddressInfo).port);
}
const words: DownloadProgress = { pod: "pod", phase: "Listing", doneBytes: 0, totalBytes: 0, bytesPerSecond: 0, message: "" };

test("what the pod says is taken, and a field that a newer one says beside is left out", async () => {
  assert.deepEqual(await ask(JSON.stringify({ ...words, more: 1 })), words);
});

const strange: Record<string, readonly [body: string | Buffer, options?: { status?: number; member?: string }]> = {
  "no JSON": ["{"],
  "another shape": [JSON.stringify({ ...words, doneBytes: -1 })],
  "a phase of another release": [JSON.stringify({ ...words, phase: "Juggling" })],
  "another pod": [JSON.stringify({ ...words, pod: "other" })],
  "too much": [Buffer.alloc(1_000_000, 32)],
  "an error": [JSON.stringify(words), { status: 500 }],
  "a rank's certificate": [JSON.stringify(words), { member: "rank-0" }],
  "the gateways' certificate": [JSON.stringify(words), { member: "gateway" }],
};
for (const [what, [body, options]] of Object.entries(strange))
  test(`${what} is no answer`, async () => {
    assert.equal(await ask(body, options), undefined);
  });

test("a pod is asked once at a time and every few seconds, what it said stays while it is silent, and another pod has said nothing", async () => {
  let now = 0;
  let answer: DownloadProgress | undefined = words;
  const asked: string[] = [];
  const reports: string[] = [];
  const polls = new DownloadPolls({
    ask: async ({ uid }) => {
      asked.push(uid);
      return answer;
    },
    onReport: ({ name }) => reports.push(name),
    records: new Records(),
    now: () => now,
  });
  const question = { owner, uid: "pod", ip: "1", identity };
  polls.ask(question);
  polls.ask(question);
  await turn();
  assert.deepEqual([asked, reports, polls.report(owner, "pod")], [["pod"], ["moe"], words]);
  assert.equal(polls.ask(question), 3000);
  answer = undefined;
  now = 3000;
  polls.ask(question);
  await turn();
  assert.deepEqual([asked.length, reports.length, polls.report(owner, "pod")], [2, 1, words]);
  assert.equal(polls.report(owner, "pod-2"), undefined);
  polls.stop(owner);
  assert.equal(polls.report(owner, "pod"), undefined);
});

test("a weight server of an older image, which takes no list, is asked without", async () => {
  const server = createServer({ ...pem("downloader"), requestCert: true }, ({ method }, response) =>
    response.writeHead(method === "GET" ? 200 : 404).end(JSON.stringify(words)),
  );
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  assert.deepEqual(await askProgress({ owner, uid: "pod", ip: "127.0.0.1", identity, body: "{}" }, port), words);
});

test("a weight server is told its members until it is ready and has them, and again when they change", async () => {
  let now = 0;
  const told: (string | undefined)[] = [];
  const ask = async ({ body }: ProgressQuestion) => {
    told.push(body);
    return words;
  };
  const polls = new DownloadPolls({ ask, onReport: () => {}, records: new Records(), now: () => now });
  const looks = async (body: string, ready: boolean) => {
    const again = polls.ask({ owner, uid: "pod", ip: "1", identity, body, ready });
    await turn();
    return again;
  };
  assert.equal(await looks("a", true), 3000);
  assert.equal(await looks("a", true), undefined);
  assert.equal(await looks("b", true), 3000, "a change within the pause is told after it");
  now = 3000;
  await looks("b", true);
  assert.equal(await looks("b", true), undefined);
  now = 6000;
  await looks("b", false); // its container has started again
  assert.deepEqual(told, ["a", "b", "b"]);
});

test("of many deployments as many are asked at once as the bound says, and the others at their next look", async () => {
  let under = 0;
  let most = 0;
  const ends: (() => void)[] = [];
  const ask = () => {
    under += 1;
    most = Math.max(most, under);
    return new Promise<undefined>((resolve) => ends.push(() => resolve(undefined))).finally(() => {
      under -= 1;
    });
  };
  const polls = new DownloadPolls({ ask, onReport: () => {}, records: new Records(), now: () => 0 });
  const question = (i: number) => ({ owner: { namespace: "ns", name: `moe-${i}`, uid: `moe-${i}` }, uid: `pod-${i}`, ip: "1", identity });
  for (let i = 0; i < 50; i++) assert.equal(polls.ask(question(i)), 3000);
  assert.deepEqual([under, most], [8, 8]);
  for (const end of ends.splice(0)) end();
  await turn();
  for (let i = 0; i < 50; i++) polls.ask(question(i));
  assert.equal(under, 8);
  for (const end of ends.splice(0)) end();
});
