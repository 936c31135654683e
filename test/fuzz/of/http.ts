// Requests to a real gateway over real HTTP, from clients that get something wrong or mean harm: each has an answer, none is an internal
// error, and what is answered is JSON or events as clients read them. Workers are scripted, and as quick as they can be.
import assert from "node:assert/strict";
import { Agent, type IncomingMessage, request } from "node:http";
import { connect } from "node:net";
import { AppError } from "../../../crds/common.ts";
import { startGateways } from "../../kit/gateway/gateway-host.ts";
import { createTestCa } from "../../kit/network/certs.ts";
import type { Fuzzer } from "../fuzzer.ts";
import { damaged, damagedJson, type Random } from "../mutate.ts";
import { chance, pick, text, times } from "../words.ts";
import { bodyOf } from "./http-bodies.ts";

interface Input {
  /** A request by a client's library; else these bytes on a connection. */
  readonly kind: "request" | "raw";
  readonly method: string;
  readonly path: string;
  readonly headers: readonly (readonly [name: string, value: string])[];
  readonly body: Buffer;
}

interface Answer {
  readonly status: number;
  readonly type: string;
  readonly body: string;
}

interface Subject {
  readonly started: Awaited<ReturnType<typeof startGateways>>;
  readonly agent: Agent;
  readonly ask: (subject: Subject, input: Input) => Promise<Answer>;
}

const answerBytesMax = 8 * 1024 * 1024;
const paths = ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings"];
const others = ["/v1/models", "/v1/models/tiny", "/v1/models/a%2Fb", "/healthz", "/", "/v1/%ff", "/v1/../x", "//", `/${"a".repeat(3_000)}`];

/** A value of a header as a client's library would write it. */
const headerText = (random: Random): string => text(random).replaceAll(/[^\x20-\x7e]/g, "?");

function headersOf(random: Random): (readonly [string, string])[] {
  const all = [
    ["content-type", pick(random, ["application/json", "text/plain", "application/json; charset=utf-16", ""])],
    ["authorization", pick(random, ["Bearer x", "Basic eDp5", "Bearer ", `Bearer ${"x".repeat(5_000)}`, headerText(random)])],
    ["x-request-id", headerText(random)],
    ["traceparent", pick(random, ["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-0-0-0", headerText(random)])],
    ["origin", pick(random, ["https://a.example", "null", headerText(random)])],
    ["accept-encoding", "gzip"],
    ["expect", "100-continue"],
    [`x-${random(100)}`, headerText(random)],
  ] as const;
  return all.filter(() => chance(random, 15)).map(([name, value]) => [name, value.trim()]);
}

/** Bytes where a request is due. */
function rawOf(random: Random): Buffer {
  const body = '{"model": "tiny", "prompt": "a", "max_tokens": 1}';
  const verb = pick(random, ["POST", "GET", "PRI", "post", text(random)]);
  const lines = [
    `${verb} ${pick(random, [...paths, ...others, "*"])} HTTP/${pick(random, ["1.1", "1.0", "2.0", "9"])}`,
    `host: ${text(random)}`,
    ...times(random, 4, () =>
      pick(random, [`content-length: ${pick(random, [body.length, 0, -1, 5, "5, 6", 2 ** 40])}`, "transfer-encoding: chunked"]),
    ),
    ...times(random, 2, () => `${text(random)}: ${text(random)}`),
    "connection: close",
  ];
  const bytes = Buffer.from(`${lines.join("\r\n")}\r\n\r\n${body}`);
  return chance(random, 40) ? damaged(bytes, random, bytes.length) : bytes;
}

async function asked({ agent, started }: Subject, { method, path, headers, body }: Input): Promise<Answer> {
  const response = await new Promise<IncomingMessage>((resolve, reject) => {
    const call = request(started.url, { agent, method, path, headers: Object.fromEntries(headers) }, resolve);
    call.on("error", reject);
    call.end(body);
  });
  const pieces: Buffer[] = [];
  let bytes = 0;
  for await (const piece of response) {
    bytes += (piece as Buffer).length;
    assert.ok(bytes <= answerBytesMax, `an answer of more than ${answerBytesMax} bytes`);
    pieces.push(piece as Buffer);
  }
  return { status: response.statusCode ?? 0, type: response.headers["content-type"] ?? "", body: Buffer.concat(pieces).toString() };
}

/** Whatever the bytes are, the connection has an end. What they are answered is looked at as far as it is an answer. */
function said({ started }: Subject, bytes: Buffer): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect(started.gateway.httpPort, "127.0.0.1");
    let answer = "";
    socket.setEncoding("latin1").on("data", (piece) => {
      answer += piece;
    });
    socket.on("error", () => {}); // a reset is an end too
    socket.on("close", () => resolve(answer));
    socket.end(bytes); // half closed: a request that has no end has none coming
  });
}

function judge(answer: Answer, { path, method }: Input): void {
  const { status, type, body } = answer;
  assert.ok(status >= 200 && status < 600, `status ${status}`);
  // On a machine that is too busy for their signs of life, workers count as away.
  assert.ok(status < 500 || (status === 503 && body.includes('"no_worker"')), `${status}: ${body.slice(0, 500)}`);
  if (method === "HEAD" || method === "OPTIONS") return;
  if (type.startsWith("text/event-stream")) judgeEvents(body, path);
  else if (status < 400 && path.startsWith("/v1/")) JSON.parse(body);
  if (status < 400) return;
  const { error } = JSON.parse(body);
  assert.ok(typeof error.message === "string" && error.message.length < 5_000, "an error has a message of some size");
  throw new AppError(error.message, { code: "Refused" });
}

/** The words of the responses' last event. */
const responsesEnd = /^response\.(completed|incomplete)$/;

function judgeEvents(body: string, path: string): void {
  const blocks = body.split("\n\n").filter((block) => block !== "" && !block.startsWith(":"));
  const data = blocks.map((block) => /^data: (.*)$/m.exec(block)?.[1] ?? "");
  const events: any[] = data.filter((line) => line !== "[DONE]").map((line) => JSON.parse(line));
  const failed = events.find((event) => event.error !== undefined || event.type === "error");
  const code = failed?.error?.code ?? failed?.code;
  assert.notEqual(code, "internal_error", JSON.stringify(failed));
  if (failed !== undefined) throw new AppError(String(code), { code: "Refused" });
  if (path.startsWith("/v1/responses")) assert.match(events.at(-1)?.type, responsesEnd);
  else assert.equal(data.at(-1), "[DONE]", `a stream ends with ${data.at(-1)?.slice(0, 300)}`);
}

export const http: Fuzzer<Subject, Input> = {
  name: "http",
  share: 30,
  deadlineMs: 20_000,
  refusals: ["Refused"],
  async start() {
    const started = await startGateways(await createTestCa(), [{ length: 8 }, { length: 8 }], { corsOrigins: ["https://a.example"] });
    return { started, agent: new Agent({ keepAlive: true, maxSockets: 1 }), ask: asked };
  },
  async stop({ started, agent }) {
    agent.destroy();
    await started.close();
  },
  input(random) {
    const path = chance(random, 92) ? pick(random, paths) : pick(random, others);
    const method = chance(random, 95) ? "POST" : pick(random, ["GET", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"]);
    if (chance(random, 5)) return { kind: "raw", method, path, headers: [], body: rawOf(random) };
    const json = bodyOf(random, path);
    const written = Buffer.from(JSON.stringify(chance(random, 25) ? damagedJson(json, random) : json) ?? "");
    const body = !["POST", "PUT", "PATCH"].includes(method)
      ? Buffer.alloc(0)
      : chance(random, 4)
        ? damaged(written, random, written.length)
        : written;
    return { kind: "request", method, path, headers: headersOf(random), body };
  },
  async attempt(subject, input) {
    if (input.kind === "request") return judge(await subject.ask(subject, input), input);
    const answer = await said(subject, input.body);
    assert.doesNotMatch(answer, /^HTTP\/1\.1 5(?!0[15])/, "bytes that are no request are no internal error");
  },
  plant: (subject) => ({
    ...subject,
    /** A gateway that takes a bias of a token that is none further in. */
    ask: async (given, input) => {
      const answer = await asked(given, input);
      return answer.status === 400 && answer.body.includes("logit_bias") ? { ...answer, status: 500 } : answer;
    },
  }),
};
