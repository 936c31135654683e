// A gateway's tokenizer over real TLS: the bytes that a rank has, whatever goes wrong on the way, from production's server and from ones
// that lie, break off, stand still or know no bulk reads.
import assert from "node:assert/strict";
import { cp, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, before, test } from "node:test";
import { AppError, gatewayRank } from "../../crds/common.ts";
import { createTestCa, type TestCa } from "../../test/kit/network/certs.ts";
import { deploymentUid, name, ns, type TextRank, type TextRankFaults, textRank } from "../../test/kit/ranks/text-rank.ts";
import { grpcNetwork } from "../net/grpc.ts";
import type { Member } from "../net/mapping.ts";
import { silentLog } from "../observe/log.ts";
import { fetchText, type TextFetch } from "./gateway-text.ts";

let ca: TestCa;
let root: string;
let store: string;
let out: string;
const servers: TextRank[] = [];

before(async () => {
  ca = createTestCa();
  root = await mkdtemp(join(tmpdir(), "enodia-text-"));
  store = join(root, "store");
  out = join(root, "out");
  await cp(join(import.meta.dirname, "../../test/golden/tiny-f32"), store, { recursive: true });
  // Longer than a message may be.
  await writeFile(join(store, "tokenizer.json"), Buffer.alloc(20 << 20, "tokens "));
});
afterEach(async () => {
  for (const server of servers.splice(0)) await server.close();
});
after(() => rm(root, { recursive: true, force: true }));

async function serve(rank: number, faults: TextRankFaults = {}): Promise<Member> {
  const server = await textRank({ ca, rank, dir: store, ...faults });
  servers.push(server);
  return server.member;
}

/** `members` is asked with what was said so far. */
async function fetching(members: (said: readonly string[]) => readonly Member[] | undefined, own: Partial<TextFetch> = {}) {
  const said: string[] = [];
  const digest = await fetchText({
    identity: { deploymentUid, rank: gatewayRank, podUid: "gw", bootId: "b" },
    ...{ namespace: ns, deployment: name, network: grpcNetwork, members: () => members(said), dir: out, log: silentLog },
    tls: ca.issue("gateway", ns, name),
    changed: async () => {},
    waits: (reason) => void said.push(reason),
    ...own,
  });
  return { digest, said };
}

/** All text files of the store, and nothing else, to the byte. */
async function isCopied(): Promise<void> {
  const names = (await readdir(out)).sort();
  assert.deepEqual(names, ["chat_template.jinja", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]);
  for (const file of names) assert.ok((await readFile(join(out, file))).equals(await readFile(join(store, file))), file);
}

test("the files of a rank come to the byte, and what lay there before is gone", async () => {
  await mkdir(out, { recursive: true });
  await writeFile(join(out, "tokenizer.json"), "of a process before");
  await writeFile(join(out, "other"), "of a process before");
  const member = await serve(0);
  const { digest, said } = await fetching(() => [member]);
  assert.deepEqual([digest, said], [member.textDigest, []]);
  await isCopied();
});

test("it waits for a membership, for a rank in it, and for one that serves the files, and says for what", async () => {
  const former = await serve(0, { former: true });
  const current = await serve(1);
  const waits = (what: string) => `waits for the tokenizer from a rank: ${what}`;
  const looks: [string, readonly Member[] | undefined][] = [
    [waits("no membership known yet"), undefined],
    [waits("no rank is there"), []],
    [waits("rank 0: no channel 4 here"), [former]],
  ];
  await fetching((said) => {
    const look = looks.find(([text]) => !said.includes(text));
    return look ? look[1] : [former, current];
  });
  await isCopied();
});

const sends =
  (data: Uint8Array, offset = 0): NonNullable<TextRankFaults["read"]> =>
  (_request, call) =>
    call.send(offset, data);

const faults: Readonly<Record<string, { server: TextRankFaults; says: RegExp }>> = {
  "a byte is wrong": {
    server: { read: sends(Buffer.from("x")) },
    says: /came|not the file/,
  },
  "more comes than was listed": {
    server: { read: sends(Buffer.alloc(1 << 20)) },
    says: /chat_template\.jinja: chunks do not fit/,
  },
  "a chunk is of elsewhere": { server: { read: sends(Buffer.from("x"), 1) }, says: /chunks do not fit/ },
  "it breaks off": { server: { read: async () => {} }, says: /0 of \d+ bytes came/ },
  "it is too busy": {
    server: { read: () => Promise.reject(new AppError("busy", { code: "Busy" })) },
    says: /rank 0: busy/,
  },
  "its folder was changed since it started": {
    server: { changed: true },
    says: /not the file that the rank started with; restart the rank/,
  },
  "it has other files than the membership says": { server: { says: "b".repeat(64) }, says: /not those that most ranks have/ },
};

for (const [fault, { server, says }] of Object.entries(faults))
  test(`where ${fault}, it says so and asks the next rank`, { timeout: 120_000 }, async () => {
    const [bad, good] = [await serve(0, server), await serve(1)];
    const both = [{ ...bad, textDigest: good.textDigest ?? "" }, good];
    await fetching((said) => (said.some((reason) => says.test(reason)) ? both : [bad]));
    await isCopied();
  });

test("a rank that is not there holds up the next for a moment only", async () => {
  const [gone, good] = [await serve(0), await serve(1)];
  await servers[0]?.close();
  await fetching(() => [gone, good]);
  await isCopied();
});

test("nobody but a gateway of the deployment is given anything", async () => {
  const member = await serve(0);
  const refusals: string[] = [];
  const stop = new Error("enough");
  const refusing = (own: Partial<TextFetch>) =>
    fetching(() => [member], {
      ...own,
      waits: (reason) => {
        refusals.push(reason);
        throw stop;
      },
    });
  await assert.rejects(refusing({ tls: ca.issue("rank-1", ns, name) }), stop);
  await assert.rejects(refusing({ identity: { deploymentUid: "other", rank: gatewayRank, podUid: "gw", bootId: "b" } }), stop);
  assert.match(refusals[0] ?? "", /a worker may not call this/);
  assert.match(refusals[1] ?? "", /another deployment/);
});
