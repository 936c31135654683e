// A server of models for tests of downloads: it speaks the hub's API and plain HTTP with ranges over real sockets, and fails as it is told.
// What it was asked for is kept, so that a test can say what was fetched twice and what never.
import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { createServer as createSecureServer } from "node:https";
import type { AddressInfo } from "node:net";

export const commit = "0123456789abcdef0123456789abcdef01234567";

interface Asked {
  readonly method: string;
  readonly path: string;
  readonly range: string | undefined;
  readonly authorization: string | undefined;
}

/** What becomes of a request for a file, in place of an answer. */
type Fault =
  /** An answer of this status, with Retry-After where it is given. */
  | { readonly status: number; readonly retryAfter?: string }
  /** The connection breaks after so many bytes. */
  | { readonly cutAfter: number }
  /** Bytes other than those of the file. */
  | { readonly corrupt: true }
  /** The whole file, whatever was asked for. */
  | { readonly noRanges: true }
  /** Elsewhere, as a hub's large files are. */
  | { readonly redirect: string };

export interface HubOptions {
  readonly files: Readonly<Record<string, Uint8Array>>;
  /** The only token that is let in. */
  readonly token?: string;
  /** Asked for each request for a file; undefined: it is answered. */
  readonly fault?: (asked: Asked, count: number) => Fault | undefined;
  /** Sizes that the listing claims, in place of the true ones. */
  readonly sizes?: Readonly<Record<string, number>>;
  /** Key and certificate: HTTPS. */
  readonly tls?: { readonly key: string | Buffer; readonly cert: string | Buffer };
  /** Milliseconds that an answer takes for each 64 KiB, so that it can be interrupted. */
  readonly slowMs?: number;
  /** The address to listen on, where others than this machine ask; the URL is of loopback all the same. */
  readonly host?: string;
}

export interface Hub {
  readonly url: string;
  readonly asked: Asked[];
  files: Record<string, Uint8Array>;
  close(): Promise<void>;
}

export async function startHub(options: HubOptions): Promise<Hub> {
  const asked: Asked[] = [];
  const hub = { files: { ...options.files } };
  const handle = (request: IncomingMessage, response: ServerResponse) => {
    const { url = "", method = "", headers } = request;
    const one = { method, path: url, range: headers.range, authorization: headers.authorization };
    asked.push(one);
    void answer(one, response, { ...options, files: hub.files, asked });
  };
  const server = options.tls ? createSecureServer(options.tls, handle) : createServer(handle);
  await new Promise<void>((resolve) => server.listen(0, options.host ?? "127.0.0.1", resolve));
  const url = `${options.tls ? "https" : "http"}://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return Object.assign(hub, {
    url,
    asked,
    close: () =>
      new Promise<void>((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  });
}

const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");
/** Smaller files have no hash in a hub's listing. */
const lfsBytesMin = 1024;

async function answer(one: Asked, response: ServerResponse, options: HubOptions & { asked: Asked[] }): Promise<void> {
  const { files, token, sizes = {} } = options;
  if (token !== undefined && one.authorization !== `Bearer ${token}`) return void response.writeHead(401).end();
  if (/^\/api\/models\/org\/name\/revision\/\w+\?blobs=true$/.test(one.path)) {
    const siblings = Object.entries(files).map(([rfilename, bytes]) => {
      const size = sizes[rfilename] ?? bytes.length;
      return { rfilename, size, ...(bytes.length >= lfsBytesMin && { lfs: { sha256: sha256(bytes), size, pointerSize: 130 } }) };
    });
    return void response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify({ sha: commit, siblings }));
  }
  const name = one.path.replace(`/org/name/resolve/${commit}/`, "").replace(/^\/files\//, "");
  const bytes = files[name];
  if (bytes === undefined) return void response.writeHead(404).end();
  const count = options.asked.filter(({ path, method }) => path === one.path && method === one.method).length;
  const fault = options.fault?.(one, count);
  await send(one, response, { bytes, fault, slowMs: options.slowMs });
}

interface Sent {
  readonly bytes: Uint8Array;
  readonly fault: Fault | undefined;
  readonly slowMs: number | undefined;
}

async function send({ method, range }: Asked, response: ServerResponse, { bytes, fault, slowMs }: Sent): Promise<void> {
  if (fault && "status" in fault)
    return void response.writeHead(fault.status, fault.retryAfter === undefined ? {} : { "retry-after": fault.retryAfter }).end();
  if (fault && "redirect" in fault) return void response.writeHead(302, { location: fault.redirect }).end();
  const etag = `"${sha256(bytes).slice(0, 16)}"`;
  const [, from = "0", to = ""] = /^bytes=(\d+)-(\d+)$/.exec(range ?? "") ?? [];
  const ranged = to !== "" && !(fault && "noRanges" in fault);
  const part = ranged ? bytes.subarray(Number(from), Number(to) + 1) : bytes;
  const headers = {
    etag,
    "accept-ranges": "bytes",
    "content-length": String(part.length),
    ...(ranged && { "content-range": `bytes ${from}-${to}/${bytes.length}` }),
  };
  response.writeHead(ranged ? 206 : 200, headers);
  if (method === "HEAD") return void response.end();
  if (fault && "cutAfter" in fault) return void response.write(part.subarray(0, fault.cutAfter), () => response.destroy());
  const body = fault && "corrupt" in fault ? part.map((byte) => byte ^ 1) : part;
  if (slowMs === undefined) return void response.end(body);
  for (let at = 0; at < body.length && !response.destroyed; at += 65_536) {
    response.write(body.subarray(at, at + 65_536));
    await new Promise((resolve) => setTimeout(resolve, slowMs));
  }
  response.end();
}
