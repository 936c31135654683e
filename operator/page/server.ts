// The HTTP server of the page: read-only but for a cookie, with bounds on connections, headers, bodies and streams.
import { open, readFile } from "node:fs/promises";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { AppError } from "../../crds/common.ts";
import type { PageAccess } from "../../crds/names.ts";
import { Connections, type RefusalCounter, refusalReport } from "../../runtime/net/connections.ts";
import type { Log } from "../../runtime/observe/log.ts";
import { Access, type Answer, clusterTokenCharsMax } from "./access.ts";
import { pageDocument, scriptFile, signInDocument, standbyDocument, styleFile } from "./document.ts";
import { bucketMs } from "./memory.ts";
import { pages } from "./pages.ts";
import { Readers, type RightsOf } from "./readers.ts";
import { boundOf, scopeOf, seen } from "./scope.ts";
import type { PageState } from "./state.ts";
import { clientsMax, Streams, tickMs } from "./streams.ts";

/** Undefined without the file, or where it is longer than a token. */
export async function tokenIn(file: string): Promise<string | undefined> {
  const handle = await open(file).catch(() => undefined);
  if (!handle) return undefined;
  try {
    const { bytesRead, buffer } = await handle.read({ length: bodyBytesMax });
    return buffer.subarray(0, bytesRead).toString("utf8");
  } finally {
    await handle.close();
  }
}

const requestTimeoutMs = 5_000;
const idleTimeoutMs = 5_000;
/** Streams and as many others; a proxy's clients share its address. */
const bounds = { total: 2 * clientsMax, perAddress: clientsMax };
const addressCharsMax = 2_048;
/** A token whose characters the form may encode as three. */
const bodyBytesMax = 2 * clusterTokenCharsMax;

interface PageOptions {
  readonly pageState: PageState;
  readonly access: PageAccess;
  readonly port: number;
  /** Read for each request. */
  readonly token: () => Promise<string | undefined>;
  readonly rightsOf: RightsOf;
  /** Empty = all that the operator watches. */
  readonly namespaces?: readonly string[];
  readonly log: Log;
  readonly metrics?: RefusalCounter | undefined;
  readonly now: () => number;
}

export interface PageServer {
  readonly port: number;
  close(): Promise<void>;
}

const plain = "text/plain; charset=utf-8";
const document = "text/html; charset=utf-8";

const headers: Readonly<Record<string, string>> = {
  "content-security-policy":
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
  "x-content-type-options": "nosniff",
  "x-frame-options": "DENY",
  "referrer-policy": "no-referrer",
  "cross-origin-resource-policy": "same-origin",
  "cache-control": "no-store",
};

interface Reply {
  readonly status: number;
  readonly type: string;
  readonly body: string;
  readonly more?: Readonly<Record<string, string>>;
}
type Files = ReadonlyMap<string, Reply>;

const text = (status: number, message: string, more: Readonly<Record<string, string>> = {}): Reply => ({
  status,
  type: plain,
  body: `${message}\n`,
  more,
});

async function filesOf(): Promise<Files> {
  const read = async (name: string, type: string): Promise<readonly [string, Reply]> => {
    const body = await readFile(new URL(`./static/${name}`, import.meta.url), "utf8");
    return [name, { status: 200, type, body }];
  };
  return new Map(await Promise.all([read(styleFile, "text/css; charset=utf-8"), read(scriptFile, "text/javascript; charset=utf-8")]));
}

export async function servePage(options: PageOptions): Promise<PageServer> {
  const { pageState, access: kind, port, token, rightsOf, log, now } = options;
  const bound = boundOf(options.namespaces ?? []);
  const readers = new Readers({ rightsOf, namespaces: () => pageState.namespaces(), bound, now });
  const access = new Access({ access: kind, token, readers, scope: scopeOf(bound, bound), now });
  const streams = new Streams({ pageState, now, onError: (err) => log.error({ err }, "a page could not be brought up to date") });
  const site = new Site({ pageState, streams, access, files: await filesOf() });
  const server = createServer(
    { headersTimeout: requestTimeoutMs, requestTimeout: requestTimeoutMs, keepAliveTimeout: idleTimeoutMs },
    (request, response) => {
      site.handle(request, response).catch((err) => {
        log.error({ err, path: request.url }, "a page could not be made");
        if (response.headersSent) response.destroy();
        else send(response, text(500, "internal error"), false);
      });
    },
  );
  new Connections(server, bounds, refusalReport("page", options));
  await new Promise<void>((resolve, reject) => {
    server.once("error", (cause) => reject(new AppError(`page port ${port}: ${cause.message}`, { code: "ListenFailed", cause })));
    server.listen(port, kind === "PortForward" ? "127.0.0.1" : "0.0.0.0", resolve);
  });
  const ticks = setInterval(() => streams.tick(), tickMs);
  const samples = setInterval(() => {
    try {
      pageState.sample();
    } catch (err) {
      log.error({ err }, "no sample for the page could be taken"); // no reason to end the operator
    }
  }, bucketMs);
  return {
    port: (server.address() as AddressInfo).port,
    close: async () => {
      clearInterval(ticks);
      clearInterval(samples);
      streams.close();
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      server.closeAllConnections();
      await closed;
    },
  };
}

function send(response: ServerResponse, { status, type, body, more = {} }: Reply, headOnly: boolean): void {
  response.writeHead(status, { ...headers, "content-type": type, "content-length": Buffer.byteLength(body), ...more });
  response.end(headOnly ? undefined : body);
}

interface SiteParts {
  readonly pageState: PageState;
  readonly streams: Streams;
  readonly access: Access;
  readonly files: Files;
}

class Site {
  readonly #parts: SiteParts;

  constructor(parts: SiteParts) {
    this.#parts = parts;
  }

  async handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const reply = await this.#answer(request, response);
    if (reply) send(response, reply, request.method === "HEAD");
  }

  /** Undefined where the response is a stream. */
  async #answer(request: IncomingMessage, response: ServerResponse): Promise<Reply | undefined> {
    const { url: address = "/", method } = request;
    if (address.length > addressCharsMax) return text(414, `an address has at most ${addressCharsMax} characters`);
    const [path = "/", search = ""] = address.split("?", 2);
    const name = path.slice(1);
    if (method === "POST" && name === "sign-in") return this.#signIn(request);
    if (method !== "GET" && method !== "HEAD") return text(405, "only GET and HEAD: the page is read-only", { allow: "GET, HEAD" });
    const file = this.#parts.files.get(name);
    if (file) return file;
    const { host, authorization, cookie } = request.headers;
    const answer = await this.#parts.access.ask({ address: addressOf(request), host, authorization, cookie });
    const query = new URLSearchParams(search);
    if (name === "events") return this.#events(answer, query, method === "GET" ? response : undefined);
    const make = Object.hasOwn(pages, name) ? pages[name] : undefined;
    if (!make)
      return text(
        404,
        `not found; here is ${Object.keys(pages)
          .map((page) => `/${page}`)
          .join(", ")}`,
      );
    if (answer.may !== "read") return this.#refused(answer);
    const { pageState } = this.#parts;
    if (!pageState.leads)
      return { status: 503, type: document, body: standbyDocument(pageState.leader, name, query), more: { "retry-after": "2" } };
    const scope = answer.look();
    if (!scope) return text(503, "what you may see is not known at this moment", { "retry-after": "2" });
    const page = make(seen(pageState.source(), scope), query);
    return { status: page.status, type: document, body: pageDocument(page, name, query) };
  }

  #events(answer: Answer, query: URLSearchParams, response: ServerResponse | undefined): Reply | undefined {
    if (answer.may !== "read") return answer.may === "signIn" ? text(401, "sign in first") : text(answer.status, answer.why);
    const page = query.get("page") ?? "";
    if (!Object.hasOwn(pages, page)) return text(404, "no such page");
    query.delete("page");
    if (!response) return text(200, "");
    for (const [header, value] of Object.entries(headers)) response.setHeader(header, value);
    if (this.#parts.streams.add(response, page, query, answer.look)) return undefined;
    return text(503, `${clientsMax} others look on: try again later`, { "retry-after": "10" });
  }

  async #signIn(request: IncomingMessage): Promise<Reply> {
    const body = await bodyOf(request);
    if (body === undefined) return text(413, `a token has at most ${clusterTokenCharsMax} characters`);
    const result = await this.#parts.access.signIn(addressOf(request), new URLSearchParams(body).get("token") ?? "");
    if (!("cookie" in result)) return this.#refused(result, "This is not the token.");
    const secure = request.headers["x-forwarded-proto"] === "https" ? "; Secure" : "";
    return { status: 303, type: plain, body: "", more: { location: "./", "set-cookie": result.cookie + secure } };
  }

  #refused(answer: Exclude<Answer, { may: "read" }>, problem?: string): Reply {
    if (answer.may === "nothing") return text(answer.status, answer.why);
    return { status: 401, type: document, body: signInDocument(this.#parts.access.form, problem) };
  }
}

const addressOf = ({ socket }: IncomingMessage): string => socket.remoteAddress ?? "";

/** Undefined where it is too long. */
async function bodyOf(request: IncomingMessage): Promise<string | undefined> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > bodyBytesMax) return undefined;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}
