// `enodia chat` as a process and in turns, against a real gateway with a scripted worker.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { PassThrough } from "node:stream";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { type Gateway, startGateway } from "../../../runtime/gateway/gateway.ts";
import { silentLog } from "../../../runtime/observe/log.ts";
import { byteText } from "../../../test/kit/gateway/byte-text.ts";
import { name, ns, type ScriptedWorker, startWorker } from "../../../test/kit/gateway/scripted-worker.ts";
import { createTestCa } from "../../../test/kit/network/certs.ts";
import { converse } from "./chat.ts";

const cli = fileURLToPath(new URL("../main.ts", import.meta.url));
let gateway: Gateway;
let worker: ScriptedWorker;
let url: string;

before(async () => {
  const ca = await createTestCa();
  worker = await startWorker(ca, 0, { length: 12 });
  gateway = await startGateway(
    {
      ...{
        namespace: ns,
        deployment: name,
        deploymentUid: "uid",
        podName: "gw",
        podUid: "gw",
        servedName: "tiny",
        textDir: "",
        maxContext: 4096,
      },
      ...{ tlsDir: "", httpPort: 0, grpcPort: 0, metricsPort: 0, probePort: 0, host: "127.0.0.1", logLevel: "silent", version: "0" },
    },
    { tls: await ca.issue("gateway", ns, name), textModel: byteText, log: silentLog },
  );
  gateway.apply({ version: 1, members: [worker.member()] });
  url = `http://127.0.0.1:${gateway.httpPort}`;
});
after(async () => {
  await gateway.close(0);
  await worker.close();
});

function start(args: string[], input?: string) {
  const child = spawn(process.execPath, [cli, "chat", ...args], { stdio: ["pipe", "pipe", "pipe"] });
  const result = { code: -1 as number | null, out: "", err: "" };
  child.stdout.on("data", (chunk) => {
    result.out += chunk;
  });
  child.stderr.on("data", (chunk) => {
    result.err += chunk;
  });
  child.stdin.end(input ?? "");
  const ended = once(child, "close").then(([code]) => ({ ...result, code }));
  return { child, result, ended };
}

test("one prompt gives one streamed answer and exit code 0", async () => {
  const { code, out, err } = await start(["--url", url, "--temperature", "0", "--system", "be brief", "hello", "there"]).ended;
  assert.equal(err, "");
  assert.equal(code, 0);
  assert.match(out, /^[a-z]{12}\n$/);
  assert.equal(String.fromCharCode(...worker.requests.at(-1)!.prompt), "<system>be brief<user>hello there");
});

test("a prompt can be piped in, and the same seed gives the same text", async () => {
  const one = await start(["--url", `${url}/v1`, "--seed", "5"], "from stdin").ended;
  const two = await start(["--url", `${url}/`, "--seed", "5", "--model", "tiny"], "from stdin").ended;
  assert.equal(one.code, 0, one.err);
  assert.equal(one.out, two.out);
});

/** The address of a port that no service has, below those that the kernel gives out. */
const closed = "http://127.0.0.1:8191";
const errors = new Map<string, { args: string[]; input?: string; want: RegExp; code?: number }>([
  [
    "nobody listens",
    { args: ["--url", closed, "hi"], want: /refuses the connection: trying for 5 s\n.*cannot be reached.*ECONNREFUSED.*--url/ },
  ],
  ["no URL", { args: ["--url", "localhost:8000", "hi"], want: /must begin with http/, code: 2 }],
  ["an unknown model", { args: ["--model", "gpt-4", "hi"], want: /404: The model `gpt-4` does not exist here: use `tiny`/ }],
  [
    "a bad number",
    { args: ["--temperature", "hot", "hi"], want: /'--temperature <number>' argument 'hot' is invalid. it must be a number/, code: 2 },
  ],
  ["a value the server refuses", { args: ["--temperature", "9", "hi"], want: /400: `temperature`: must be 0 to 2/ }],
  ["an effort that is none", { args: ["--effort", "most", "hi"], want: /400: `reasoning_effort`: must be one of none, minimal/ }],
  ["an unknown option", { args: ["--nonsense", "hi"], want: /unknown option '--nonsense'; see: enodia chat --help/, code: 2 }],
  ["nothing to say", { args: [], input: "", want: /Nothing was piped in/ }],
  ["no key file", { args: ["--api-key-file", "/nowhere", "hi"], want: /cannot be read/, code: 2 }],
]);

for (const [what, { args, input, want, code: wantCode = 1 }] of errors) {
  test(`a clear error and exit code ${wantCode}: ${what}`, async () => {
    const withUrl = args.includes("--url") ? args : ["--url", url, ...args];
    const { code, out, err } = await start(withUrl, input).ended;
    assert.equal(code, wantCode);
    assert.equal(out, "");
    assert.match(err, want);
    assert.ok(!err.includes("    at "), "no stack trace");
  });
}

test("Ctrl-C cancels the answer at the worker", async () => {
  worker.script = { delayMs: 20 };
  const { child, result, ended } = start(["--url", url, "--max-tokens", "400", "hi"]);
  while (result.out.length < 3) await new Promise((resolve) => setTimeout(resolve, 5));
  child.kill("SIGINT");
  const { code, err } = await ended;
  worker.script = { length: 12 };
  assert.equal(code, 130);
  assert.match(err, /\[cancelled\]/);
  while (worker.active > 0) await new Promise((resolve) => setTimeout(resolve, 5));
});

test("turns carry the conversation, /reset forgets it, an error keeps it", async () => {
  const input = Object.assign(new PassThrough(), { isTTY: true });
  const output = new PassThrough();
  const errorsOut = new PassThrough();
  const ended = converse(
    { options: { url }, settings: { model: "tiny", temperature: 0 }, system: [] },
    { input, output, errors: errorsOut, onInterrupt: () => () => {} },
  );
  const says = async (line: string, answers = true) => {
    const before = worker.requests.length;
    input.write(`${line}\n`);
    while (answers && worker.requests.length === before) await new Promise((resolve) => setTimeout(resolve, 5));
    await new Promise((resolve) => setTimeout(resolve, 50));
    return String.fromCharCode(...worker.requests.at(-1)!.prompt);
  };
  assert.equal(await says("one"), "<user>one");
  assert.match(await says("two"), /^<user>one<assistant>[a-z]{12}<user>two$/);
  await says(`long ${"x".repeat(5000)}`, false);
  assert.match(await says("three"), /^<user>one<assistant>[a-z]{12}<user>two<assistant>[a-z]{12}<user>three$/);
  await says("/reset", false);
  assert.equal(await says("four"), "<user>four");
  input.end();
  assert.equal(await ended, 0);
  assert.match(String(errorsOut.read()), /400: The context holds 4096 tokens/);
});
