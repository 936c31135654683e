// A gateway before real ranks with roles: prompts are computed by one rank and their answers by others, with the texts that ranks without
// roles make, whichever rank dies or drains at whichever step.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { rolesOf } from "../../crds/roles.ts";
import { metric } from "../../test/kit/gateway/gateway-host.ts";
import { letters } from "../../test/kit/gateway/letters.ts";
import { gatewayOfRanks } from "../../test/kit/gateway/local-gateway.ts";
import { Ranks, tinyStore } from "../../test/kit/ranks/ranks.ts";
import { createEngine, type EngineKv } from "../engine/engine.ts";
import type { GatewayConfig } from "./gateway.ts";

const prompts = [0, 1, 2].map((seed) => Array.from({ length: 320 }, (_, i) => 3 + ((i * 37 + seed * 11) % 240)));
const short = "a short one";
const tokens = 24;
/** What a rank for decode computes of a prompt that came from elsewhere: the rest behind the last block, and its last token. */
const anewMost = 64;
let store: Awaited<ReturnType<typeof tinyStore>>;

/** Called before a rank reads or writes a block of keys and values; what it returns is waited for without an end. */
type OnBlock = (what: "read" | "write", rank: number, number: number) => unknown;

interface Beside {
  readonly worker?: { readonly kvPoolBytes?: number; readonly kvOffloadBytes?: number; readonly prefillParallelism?: number };
  readonly gateway?: Partial<GatewayConfig>;
}

async function world(onBlock: OnBlock = () => {}, { worker = {}, gateway: config = {} }: Beside = {}) {
  const ranks = new Ranks(store, (rank) => ({
    ...worker,
    maxContext: 512,
    overrides: {
      createEngine: async (options) => {
        const engine = await createEngine({ ...options, prefillParallelismFrom: 128 });
        const kv = engine.kv as EngineKv;
        const blocks = { read: 0, write: 0 };
        const met = (what: "read" | "write"): unknown => onBlock(what, rank, ++blocks[what]) && new Promise(() => {});
        const read: EngineKv["read"] = async (block) => {
          await met("read");
          return kv.read(block);
        };
        const write: EngineKv["write"] = async (block) => {
          await met("write");
          return kv.write(block);
        };
        return Object.assign(engine, { kv: { ...kv, read, write } });
      },
    },
  }));
  for (const rank of [0, 1, 2]) await ranks.launch(rank);
  await ranks.firstPlan();
  const gateway = await gatewayOfRanks(ranks, { maxContext: 512, ...config }, { textModel: letters });
  let version = 100;
  return {
    ranks,
    gateway,
    /** Tells the gateway the roles of all ranks. */
    assign: (prefill: number, decode: number) => {
      const roles = rolesOf({ prefill, decode }, [0, 1, 2]);
      const members = ranks.members().map((member) => Object.assign({}, member, { role: roles.get(member.rank) }));
      gateway.apply({ version: ++version, members });
    },
    prefilled: (rank: number) =>
      ranks.byRank
        .get(rank)!
        .worker.engine.stats()
        .then(({ prefillTokens }) => prefillTokens),
    close: async () => {
      await gateway.close(0);
      await ranks.close();
    },
  };
}

type World = Awaited<ReturnType<typeof world>>;

/** The text of a prompt; `onToken` is called with the number of tokens so far. */
async function ask(
  { gateway }: World,
  prompt: string | number[],
  onToken: (count: number) => unknown = () => {},
  more = {},
): Promise<string> {
  const body = JSON.stringify({ model: "tiny", prompt, max_tokens: tokens, temperature: 0, stream: true, ...more });
  const response = await fetch(`http://127.0.0.1:${gateway.httpPort}/v1/completions`, { method: "POST", body });
  assert.equal(response.status, 200);
  let [text, left] = ["", ""];
  for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) {
    const lines = `${left}${chunk}`.split("\n");
    left = lines.pop() ?? "";
    for (const line of lines) {
      if (!line.startsWith("data: {")) continue;
      const piece: string = JSON.parse(line.slice(6)).choices?.[0]?.text ?? "";
      text += piece;
      if (piece !== "") await onToken(text.length);
    }
  }
  return text;
}

const want: string[] = [];
let wantShort = "";
let blockBytes = 0;
before(async () => {
  store = await tinyStore();
  const plain = await world();
  try {
    for (const prompt of prompts) want.push(await ask(plain, prompt));
    wantShort = await ask(plain, short);
    const counted = await metric(plain.gateway, `enodia_gateway_role_requests_total{role="both"`);
    const { kvBytes, kvBlocks } = plain.ranks.byRank.get(0)!.worker.engine.describe();
    blockBytes = kvBytes / kvBlocks;
    assert.ok(!(counted > 0), "without roles nothing is counted by them");
  } finally {
    await plain.close();
  }
});
after(() => store.remove());

test("long prompts are computed by the rank for prefill, and answers with their keys and values by the others: texts are the same", async () => {
  const all = await world();
  try {
    all.assign(1, 2);
    assert.deepEqual(await Promise.all(prompts.map((prompt) => ask(all, prompt))), want);
    assert.ok((await all.prefilled(0)) >= prompts.length * (prompts[0] as number[]).length);
    const elsewhere = (await all.prefilled(1)) + (await all.prefilled(2));
    assert.ok(elsewhere <= prompts.length * anewMost, `${elsewhere} prompt tokens were computed by ranks for decode`);
    assert.equal(await metric(all.gateway, "enodia_gateway_handover_seconds_count"), prompts.length);
    for (const role of ["prefill", "decode"])
      assert.equal(await metric(all.gateway, `enodia_gateway_role_requests_total{role="${role}"`), prompts.length);
    for (let before = -1; before !== (await all.prefilled(0)); ) {
      before = await all.prefilled(0);
      assert.equal(await ask(all, prompts[0] as number[]), want[0]);
    }
    const before = await all.prefilled(0);
    assert.equal(await ask(all, short), wantShort);
    assert.equal(await all.prefilled(0), before, "what is short, and in the end what ranks have, needs no rank for prefill");
  } finally {
    await all.close();
  }
});

const besides: Readonly<Record<string, () => Beside>> = {
  "with routing by turns": () => ({ gateway: { routing: "RoundRobin" } }),
  "with routing by load": () => ({ gateway: { routing: "LoadAware" } }),
  "with prefixes of each client apart": () => ({ gateway: { prefixIsolation: true } }),
  "with host memory behind a small pool": () => ({ worker: { kvPoolBytes: 9 * blockBytes, kvOffloadBytes: 64 * blockBytes } }),
  "with long prompts spread over two ranks": () => ({ worker: { prefillParallelism: 2 } }),
};

for (const [what, beside] of Object.entries(besides)) {
  test(`roles ${what}: the texts are the same, twice, with salts, and of requests that are computed as a whole`, async () => {
    const all = await world(undefined, beside());
    try {
      all.assign(1, 2);
      for (const cache_salt of ["first", "first", "second"]) {
        assert.deepEqual(await Promise.all(prompts.map((prompt) => ask(all, prompt, undefined, { cache_salt }))), want);
      }
      assert.ok((await metric(all.gateway, "enodia_gateway_handover_seconds_count")) > 0);
      assert.equal(await ask(all, prompts[0] as number[], undefined, { max_tokens: 1, cache_salt: "one" }), want[0]?.slice(0, 1));
      assert.equal(
        await ask(all, prompts[1] as number[], undefined, { stop: [want[1]?.at(6)], cache_salt: "stop" }),
        want[1]?.split(want[1].at(6) as string)[0],
      );
    } finally {
      await all.close();
    }
  });
}

/** What happens to a request: when a block moves, when its client got a token, or while its prompt is computed. */
interface Fault {
  readonly onBlock?: (world: World, ...block: Parameters<OnBlock>) => unknown;
  readonly onToken?: (world: World, count: number) => unknown;
  readonly atOnce?: (world: World) => unknown;
}

const busiest = ({ ranks }: World): number =>
  [1, 2].find((rank) => (ranks.byRank.get(rank)?.worker.engine.load().activeRequests ?? 0) > 0) ?? 1;
const drain = ({ ranks }: World, rank: number) => ranks.control(rank).drain({ sender: ranks.sender() });
const begun = async ({ ranks }: World): Promise<void> => {
  while (ranks.byRank.get(0)?.worker.engine.load().activeRequests === 0) await new Promise((resolve) => setImmediate(resolve));
};

const read =
  (at: number, then: (world: World) => unknown): Required<Fault>["onBlock"] =>
  (all, what, rank, number) =>
    what === "read" && rank === 0 && number === at && then(all);
const token =
  (at: number, then: (world: World) => unknown): Required<Fault>["onToken"] =>
  (all, count) =>
    count === at && then(all);

const faults: Readonly<Record<string, Fault>> = {
  "the rank for prefill is dead before": { atOnce: (all) => all.ranks.kill(0) },
  "the rank for prefill dies while it computes": { atOnce: (all) => begun(all).then(() => all.ranks.kill(0)) },
  "the rank for prefill drains while it computes": { atOnce: (all) => begun(all).then(() => drain(all, 0)) },
  "the rank for prefill dies with the first token": { onToken: token(1, (all) => all.ranks.kill(0)) },
  "the rank for prefill dies when it is asked for the first block": { onBlock: read(1, (all) => all.ranks.kill(0)) },
  "the rank for prefill dies behind two blocks": { onBlock: read(3, (all) => all.ranks.kill(0)) },
  "the rank for prefill says nothing when it is asked": { onBlock: read(1, () => true) },
  "the rank for decode dies before the first block is there": {
    onBlock: (all, what, rank, number) => what === "write" && number === 1 && all.ranks.kill(rank),
  },
  "the rank for decode dies in the middle": { onToken: token(8, (all) => all.ranks.kill(busiest(all))) },
  "the rank for decode drains in the middle": { onToken: token(8, (all) => drain(all, busiest(all))) },
  "both ranks for decode drain in the middle": { onToken: token(8, (all) => Promise.all([drain(all, 1), drain(all, 2)])) },
};

for (const [what, fault] of Object.entries(faults)) {
  test(`${what}: the text is the same`, async () => {
    const all: World = await world((...block) => fault.onBlock?.(all, ...block));
    try {
      all.assign(1, 2);
      const text = ask(all, prompts[1] as number[], (count) => fault.onToken?.(all, count));
      await fault.atOnce?.(all);
      assert.equal(await text, want[1]);
    } finally {
      await all.close();
    }
  });
}
