// Requests and what answers may do to them: lead elsewhere, change between two ranges, be compressed, too long or about another range.
import assert from "node:assert/strict";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { type AddressInfo, isIP } from "node:net";
import { after, test } from "node:test";
import { AppError } from "../../../crds/common.ts";
import { Http, type Range } from "./http.ts";
import { checkedLookup } from "./request.ts";

type Handler = (request: IncomingMessage, response: ServerResponse) => void;
const servers: { close(): unknown; closeAllConnections(): void }[] = [];
after(() => {
  for (const server of servers) {
    server.close();
    server.closeAllConnections();
  }
});
async function serving(handler: Handler): Promise<string> {
  const server = createServer(handler);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  servers.push(server);
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

const waits: string[] = [];
const http = new Http({ sleep: async () => undefined, onWait: (message) => waits.push(message) });
const content = Buffer.from("0123456789");
async function read(url: string, range: Partial<Range> = {}): Promise<string> {
  const got = Buffer.alloc(content.length);
  const asked = { from: 0, to: content.length, of: content.length, ...range };
  await http.range(
    async () => ({ url }),
    asked,
    async (chunk, at) => void got.set(chunk, at),
  );
  return got.subarray(asked.from, asked.to).toString();
}
const refusal = (code: string, message: RegExp) => ({ name: AppError.name, code, message });
/** Answers a range as asked, with these headers beside. */
const ranged =
  (more: Record<string, string> = {}): Handler =>
  (request, response) => {
    const [, from = "0", to = "0"] = /bytes=(\d+)-(\d+)/.exec(request.headers.range ?? "") ?? [];
    response.writeHead(206, { "content-range": `bytes ${from}-${to}/${content.length}`, ...more });
    response.end(content.subarray(Number(from), Number(to) + 1));
  };

test("a range is read, and one that is changed, shorter or longer meanwhile is never mixed with what was there", async () => {
  assert.equal(await read(await serving(ranged({ etag: '"a"' })), { from: 2, to: 5, etag: '"a"' }), "234");
  await assert.rejects(
    read(await serving(ranged({ etag: '"b"' })), { from: 2, to: 5, etag: '"a"' }),
    refusal("SourceChanged", /was changed/),
  );
  const longer = await serving(ranged({ "content-range": "bytes 0-9/11" }));
  await assert.rejects(read(longer), refusal("SourceChanged", /was changed/));
  for (const status of [412, 416])
    await assert.rejects(read(await serving((_, response) => response.writeHead(status).end())), refusal("SourceChanged", /was changed/));
});

test("an answer about another range, or with more than was asked for, is asked for again a bounded number of times", async () => {
  let asked = 0;
  const other = await serving((_, response) => {
    asked += 1;
    response.writeHead(206, { "content-range": "bytes 5-9/10" }).end(content.subarray(5));
  });
  await assert.rejects(read(other), refusal("SourceUnavailable", /another range \(bytes 5-9\/10\)/));
  assert.equal(asked, 8);
  const more = await serving((_, response) => response.writeHead(206, { "content-range": "bytes 0-3/10" }).end(content));
  await assert.rejects(read(more, { to: 4 }), refusal("SourceUnavailable", /more than was asked for/));
});

test("what is compressed, endless or leads in circles is refused", async () => {
  await assert.rejects(read(await serving(ranged({ "content-encoding": "gzip" }))), refusal("BadSource", /answered in gzip/));
  const long = await serving((_, response) => response.end(Buffer.alloc(5000)));
  await assert.rejects(http.text({ url: long }, 1000), refusal("BadSource", /more than 1000 bytes/));
  const circle: string = await serving((_, response) => response.writeHead(302, { location: "/again" }).end());
  await assert.rejects(http.text({ url: circle }, 1000), refusal("BadSource", /leads on more than 5 times/));
  const file = await serving((_, response) => response.writeHead(302, { location: "file:///etc/passwd" }).end());
  await assert.rejects(http.text({ url: file }, 1000), refusal("BadSource", /leads to what is no HTTP URL/));
});

/** What no source may be, however it is written. */
const forbidden = [
  "http://169.254.169.254/latest/meta-data/",
  "http://2852039166/",
  "http://[::ffff:169.254.169.254]/",
  "http://[fe80::1]/",
  "http://[64:ff9b::a9fe:a9fe]/",
  "http://[fd00:ec2::254]/",
  "https://100.100.100.200/",
];
test("link-local addresses and metadata services are refused by name, asked for, led to, or by a DNS answer", async () => {
  const by = (host: RegExp) => refusal("SourceForbidden", new RegExp(`^\\S*${host.source}\\S*: is a link-local address or a metadata`));
  for (const url of forbidden) await assert.rejects(http.text({ url }, 100), by(/[0-9a-f.:]+/), url);
  const leading = await serving((_, response) => response.writeHead(302, { location: forbidden[0] }).end("secret"));
  await assert.rejects(http.text({ url: leading }, 100), by(/169\.254\.169\.254/));
  await assert.rejects(http.head({ url: leading }), by(/169\.254\.169\.254/));
  const answers: readonly (readonly [answer: readonly string[], taken: boolean])[] = [
    [["10.0.0.1"], true],
    [["10.0.0.1", "169.254.169.254"], false],
    [["fe80::1"], false],
    [["2001:db8::1"], true],
  ];
  for (const [found, taken] of answers) {
    const addresses = found.map((address) => ({ address, family: isIP(address) }));
    for (const all of [true, false]) {
      const looked = Promise.withResolvers<unknown>();
      checkedLookup((_host, _options, done) => done(null, addresses))("hub.example", { all }, (error, got) => looked.resolve(error ?? got));
      const got = await looked.promise;
      if (taken) assert.deepEqual(got, all ? addresses : found[0]);
      else assert.match(String(got), /hub\.example: is a link-local address/);
    }
  }
});

test("what authorises is not sent on to another host, by whatever header it does", async () => {
  const seen: IncomingMessage["headers"][] = [];
  const storage = await serving((request, response) => {
    seen.push(request.headers);
    ranged()(request, response);
  });
  const hub = await serving((request, response) => {
    seen.push(request.headers);
    response.writeHead(307, { location: `${storage}/file` }).end();
  });
  const headers = { authorization: "AWS4 x", "x-amz-security-token": "secret", "x-amz-date": "today", "if-match": '"a"' };
  const range = { from: 2, to: 5, of: content.length };
  await http.range(
    async () => ({ url: hub, headers }),
    range,
    async () => undefined,
  );
  const [first = {}, second = {}] = seen;
  assert.deepEqual([first.authorization, first["x-amz-security-token"]], ["AWS4 x", "secret"]);
  const names = ["authorization", "x-amz-security-token", "x-amz-date", "if-match", "range"];
  assert.deepEqual(
    names.map((name) => second[name]),
    [undefined, undefined, undefined, '"a"', "bytes=2-4"],
  );
});

test("a server that closes while its body is read slowly costs nothing but another request", async () => {
  const whole = Buffer.alloc(3_000_000, 7);
  const url = await serving((request, response) => {
    const [, from = "0", to = "0"] = /bytes=(\d+)-(\d+)/.exec(request.headers.range ?? "") ?? [];
    response.writeHead(206, { "content-range": `bytes ${from}-${to}/${whole.length}`, connection: "close" });
    response.end(whole.subarray(Number(from), Number(to) + 1));
  });
  let bytes = 0;
  const slowly = async (chunk: Uint8Array) => {
    bytes += chunk.length;
    await new Promise((resolve) => setTimeout(resolve, 5));
  };
  await http.range(async () => ({ url }), { from: 0, to: whole.length, of: whole.length }, slowly);
  assert.equal(bytes, whole.length);
});

test("a server that falls silent in the middle is left, and gone on with where it was", async () => {
  const froms: string[] = [];
  const url = await serving((request, response) => {
    const range = request.headers.range ?? "";
    froms.push(range);
    if (froms.length > 1) return ranged()(request, response);
    response.writeHead(206, { "content-range": "bytes 0-9/10" });
    response.write(content.subarray(0, 4));
  });
  const impatient = new Http({ sleep: async () => undefined, silenceMs: 100 });
  const got = Buffer.alloc(10);
  const take = async (chunk: Uint8Array, at: number) => void got.set(chunk, at);
  await impatient.range(async () => ({ url }), { from: 0, to: 10, of: 10 }, take);
  assert.deepEqual([got.toString(), froms], [content.toString(), ["bytes=0-9", "bytes=4-9"]]);
});

test("a server that trickles counts as silent, and the download ends after some tries", async () => {
  let asked = 0;
  const url = await serving((request, response) => {
    asked += 1;
    const [, from = "0"] = /bytes=(\d+)-/.exec(request.headers.range ?? "") ?? [];
    response.writeHead(206, { "content-range": `bytes ${from}-999999/1000000` });
    const drip = setInterval(() => response.write("x"), 10);
    response.on("close", () => clearInterval(drip));
  });
  const impatient = new Http({ sleep: async () => undefined, silenceMs: 50 });
  const done = impatient.range(
    async () => ({ url }),
    { from: 0, to: 1_000_000, of: 1_000_000 },
    async () => {},
  );
  await assert.rejects(done, refusal("SourceUnavailable", /sent less than 16384 bytes in 0.05 s/));
  assert.equal(asked, 8);
});

test("a disk that is full ends it with the remedy; a socket that breaks by the same call is asked again", async () => {
  const url = await serving(ranged());
  const failing = (code: string) => {
    let tries = 0;
    const take = async () => {
      tries += 1;
      throw Object.assign(new Error(`${code}: write`), { code, syscall: "write" });
    };
    return { done: http.range(async () => ({ url }), { from: 0, to: 10, of: 10 }, take), tries: () => tries };
  };
  const full = failing("ENOSPC");
  await assert.rejects(full.done, refusal("NotEnoughSpace", /the disk is full: enlarge the claim/));
  assert.equal(full.tries(), 1);
  await assert.rejects(failing("EIO").done, refusal("DiskFailed", /EIO/));
  await assert.rejects(failing("EPIPE").done, refusal("SourceUnavailable", /EPIPE/));
});

/** A busy source's answer -> the wait, of which half a second is our own. */
const busy: readonly (readonly [status: number, headers: () => Record<string, string>, seconds: RegExp])[] = [
  [503, () => ({ "retry-after": new Date(Date.now() + 30_000).toUTCString() }), /^(29|30|31)$/],
  [429, () => ({ "retry-after": "7" }), /^8$/],
  [429, () => ({ "retry-after": "86400" }), /^301$/],
  [429, () => ({ ratelimit: '"resolvers";r=0;t=55', "ratelimit-policy": '"fixed window";"resolvers";q=5000;w=300' }), /^56$/],
  [429, () => ({ "retry-after": "soon" }), /^1$/],
];
test("a wait is told with what it is for, and is as long as a busy source says, within a bound", async () => {
  for (const [status, headers, seconds] of busy) {
    waits.length = 0;
    let first = true;
    const url = await serving((request, response) => {
      if (!first) return ranged()(request, response);
      first = false;
      response.writeHead(status, headers()).end();
    });
    assert.equal(await read(url), content.toString());
    const [, told, wait = ""] = /answered (\d+); trying again in (\d+) s/.exec(waits[0] ?? "") ?? [];
    assert.equal(told, String(status));
    assert.match(wait, seconds);
  }
});

test("headers of a file that is elsewhere are of both answers, and one that is not there has none", async () => {
  const url = await serving((request, response) => {
    if (request.url === "/gone") return void response.writeHead(404).end();
    if (request.url === "/there") return void response.writeHead(200, { "content-length": "7", etag: '"x"' }).end();
    response.writeHead(302, { location: "/there", "x-linked-size": "42", "x-linked-etag": `"${"a".repeat(64)}"` }).end();
  });
  const headers = await http.head({ url });
  assert.deepEqual([headers?.get("content-length"), headers?.get("x-linked-size")], ["7", "42"]);
  assert.equal(await http.head({ url: `${url}/gone` }), undefined);
});
