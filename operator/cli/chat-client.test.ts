// The chat client against a server that is not there yet, and against one that stays away. Real sockets on loopback.
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, type Server } from "node:http";
import { PassThrough } from "node:stream";
import { after, test } from "node:test";
import { firstModel } from "./chat-client.ts";
import { chat } from "./commands/chat.ts";

const servers: Server[] = [];
after(() => {
  for (const server of servers) server.close();
});

const answering = () => createServer((_, response) => response.end(JSON.stringify({ data: [{ id: "tiny" }] })));

async function listen(port: number, server = answering()): Promise<number> {
  servers.push(server);
  server.listen(port, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  return typeof address === "object" && address !== null ? address.port : 0;
}

/** A port on which nobody listens at the moment. */
async function freePort(): Promise<number> {
  const port = await listen(0);
  const [server] = servers.splice(-1);
  await new Promise((done) => server?.close(done));
  return port;
}

test("a refused connection is said once and tried again until the server listens", async () => {
  const port = await freePort();
  const said: string[] = [];
  const asked = firstModel({ url: `http://127.0.0.1:${port}`, onRefused: (message) => said.push(message) }, new AbortController().signal);
  while (said.length === 0) await new Promise((done) => setTimeout(done, 10));
  await new Promise((done) => setTimeout(done, 450)); // longer than one pause: it is refused more than once
  await listen(port);
  assert.equal(await asked, "tiny");
  assert.deepEqual(said, [`http://127.0.0.1:${port} refuses the connection: trying for 5 s`]);
});

test("a cancelled request does not wait for the server", async () => {
  const cancelling = new AbortController();
  const started = performance.now();
  const url = `http://127.0.0.1:${await freePort()}`;
  await assert.rejects(firstModel({ url, onRefused: () => setTimeout(() => cancelling.abort(), 20) }, cancelling.signal));
  assert.ok(performance.now() - started < 2000);
});

test("a connection that was open and broke is not tried again: the request may have been read", async () => {
  const said: string[] = [];
  let connections = 0;
  const rude = createServer().on("connection", (socket) => {
    connections++;
    socket.on("data", () => socket.destroy());
  });
  const url = `http://127.0.0.1:${await listen(0, rude)}`;
  const asked = firstModel({ url, onRefused: (message) => said.push(message) }, new AbortController().signal);
  await assert.rejects(asked, { code: "Unreachable" });
  assert.deepEqual([connections, said], [1, []]);
});

test("what a model thinks goes to stderr, apart from its answer, and the effort to the server", async () => {
  const deltas = [{ reasoning_content: "hm" }, { reasoning_content: " so" }, { content: "Yes" }, { content: "." }];
  const bodies: any[] = [];
  const server = createServer((request, response) => {
    let text = "";
    request.on("data", (chunk) => {
      text += chunk;
    });
    request.on("end", () => {
      bodies.push(JSON.parse(text));
      const chunks = [...deltas.map((delta) => ({ choices: [{ delta }] })), { choices: [{ delta: {}, finish_reason: "stop" }] }];
      response.end(`${chunks.map((chunk) => `data: ${JSON.stringify(chunk)}\n\n`).join("")}data: [DONE]\n\n`);
    });
  });
  const url = `http://127.0.0.1:${await listen(0, server)}`;
  const [output, errors] = [new PassThrough(), new PassThrough()];
  const terminal = { input: new PassThrough(), output, errors, onInterrupt: () => () => {} };
  assert.equal(await chat({ url, model: "tiny", effort: "low" }, "hi", terminal), 0);
  assert.deepEqual([output.read().toString(), errors.read().toString()], ["Yes.\n", "hm so\n\n"]);
  assert.equal(bodies[0].reasoning_effort, "low");
});
