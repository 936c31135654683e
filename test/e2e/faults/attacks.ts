// What a tenant or a stranger sends: patterns that repeat, many large bodies, connections that say nothing. Others notice none of it.
import assert from "node:assert/strict";
import { connect, type Socket } from "node:net";
import { sleep } from "../../kit/processes/process.ts";
import { nobody } from "./pods.ts";
import type { Fault, Scene } from "./scene.ts";
import { drawn } from "./schedule.ts";

const attackMs = 10_000;
const patternRequests = 8;
const patternTokens = 40;
const bodies = 200;
const bodyBytes = 8 * 1024 * 1024 - 200;
const againMs = 1_000;
const silentEach = 250;
const gatewayPort = 8000;
/** The API, gRPC, rows between engines, and metrics. */
const listeners = [gatewayPort, 9440, 9441, 9464];

const over = () => ({ mayGo: nobody, overAt: Date.now() });
const chat = (content: string): string => JSON.stringify({ model: "struck", max_tokens: 3, messages: [{ role: "user", content }] });

export const patternsAsked: Fault = {
  name: "a pattern of 450 repetitions eight times at once",
  strike: async ({ url, moe }) => {
    const schema = { type: "string", pattern: "^[ -~]*[a-m][ -~]{450}$" };
    const body = {
      ...{ model: moe.name, temperature: 1, max_tokens: patternTokens, messages: [{ role: "user", content: "Say anything." }] },
      response_format: { type: "json_schema", json_schema: { name: "text", schema } },
    };
    const ask = async (seed: number): Promise<string> => {
      const request = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ ...body, seed }) };
      const response = await fetch(`${url}/v1/chat/completions`, request);
      assert.equal(response.status, 200, await response.clone().text());
      return ((await response.json()) as any).choices[0].message.content;
    };
    for (const text of await Promise.all(Array.from({ length: patternRequests }, (_, seed) => ask(seed))))
      assert.match(text, /^\s*"[ -~]*$/);
    return over();
  },
};

/** Each is opened again when it ends. */
async function attack(open: () => Socket, count: number): Promise<void> {
  const sockets = new Set<Socket>();
  let goesOn = true;
  const one = (): void => {
    const socket = open().on("error", () => {});
    sockets.add(socket);
    socket.once("close", () => {
      sockets.delete(socket);
      setTimeout(() => goesOn && one(), againMs);
    });
  };
  for (let i = 0; i < count; i++) one();
  await sleep(attackMs);
  goesOn = false;
  for (const socket of sockets) socket.destroy();
}

export const bodiesSent: Fault = {
  name: `${bodies} bodies of 8 MiB at a gateway`,
  strike: async ({ url }) => {
    const { hostname: host, port } = new URL(url);
    const body = chat("x".repeat(bodyBytes));
    const head = `POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n`;
    const sent = Buffer.from(head + body);
    await attack(() => {
      const socket = connect({ host, port: Number(port) });
      socket.write(sent);
      return socket.once("data", () => socket.destroySoon());
    }, bodies);
    return over();
  },
};

async function hostsOf(scene: Scene, draw: number): Promise<readonly string[]> {
  const gateways = (await scene.pods()).filter(({ component }) => component === "gateway");
  return [drawn(gateways, draw, "gateway").ip, drawn(await scene.ranks(), draw, "rank").ip];
}

export const silentConnections: Fault = {
  name: `${silentEach * listeners.length} connections that say nothing`,
  strike: async (scene, draw) => {
    let opened = 0;
    const open = (host: string, port: number) => (): Socket =>
      connect({ host, port }).once("connect", () => {
        opened += 1;
      });
    const attacks = (await hostsOf(scene, draw)).flatMap((host) => listeners.map((port) => attack(open(host, port), silentEach / 2)));
    await Promise.all(attacks);
    assert.ok(opened >= silentEach / 2, `${opened} connections were taken`);
    return over();
  },
};
