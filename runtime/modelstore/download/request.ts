// One HTTP request with redirects; credentials never leave the first host or HTTPS. It uses node:http, because fetch() crashes when a
// server closes a connection whose body is read slowly.
import { type LookupAddress, type LookupAllOptions, lookup } from "node:dns";
import { type IncomingHttpHeaders, type IncomingMessage, request as plainRequest } from "node:http";
import { request as secureRequest } from "node:https";
import { BlockList, isIP, type LookupFunction } from "node:net";
import { AppError } from "../../../crds/common.ts";
import { forbiddenRanges } from "../../../crds/download.ts";

const redirectsMax = 5;
/** Headers for redirected hosts; any other may hold credentials. */
const publicHeaders = ["range", "if-match"];

export interface Ask {
  readonly url: string;
  readonly headers?: Readonly<Record<string, string>>;
}

export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly body: IncomingMessage;
}

export interface Sending {
  readonly method?: "GET" | "HEAD";
  readonly signal: AbortSignal;
  /** False returns a redirect as the answer. */
  readonly follow?: boolean;
}

export async function send(ask: Ask, sending: Sending): Promise<Answer> {
  let next = ask;
  for (let redirects = 0; ; redirects++) {
    const answer = await once(next, sending);
    const location = answer.headers.get("location");
    if (sending.follow === false || answer.status < 300 || answer.status >= 400 || location === null) return answer;
    answer.body.destroy();
    if (redirects === redirectsMax) throw new AppError(`${shown(ask)}: leads on more than ${redirectsMax} times`, { code: "BadSource" });
    next = ledTo(next, location);
  }
}

/** The URL without credentials. */
export function shown({ url }: Ask): string {
  const { origin, pathname } = new URL(url);
  return `${origin}${pathname}`;
}

function ledTo({ url, headers = {} }: Ask, location: string): Ask {
  const [from, to] = [new URL(url), URL.parse(location, url)];
  const secret = from.protocol === "https:";
  if (to === null || !(to.protocol === "https:" || (to.protocol === "http:" && !secret)))
    throw new AppError(`${shown({ url })}: leads to what is no ${secret ? "HTTPS" : "HTTP"} URL`, { code: "BadSource" });
  const allowed = Object.entries(headers).filter(([name]) => to.origin === from.origin || publicHeaders.includes(name.toLowerCase()));
  return { url: to.href, headers: Object.fromEntries(allowed) };
}

const forbidden = new BlockList();
for (const family of ["ipv4", "ipv6"] as const)
  for (const range of forbiddenRanges[family]) {
    const [net = "", bits] = range.split("/");
    forbidden.addSubnet(net, Number(bits), family);
  }
const isForbidden = (address: string): boolean => forbidden.check(address, isIP(address) === 6 ? "ipv6" : "ipv4");

function refused(host: string): AppError {
  const message = `${host}: is a link-local address or a metadata service, where no model is downloaded from; name another source`;
  return new AppError(message, { code: "SourceForbidden" });
}

type Found = (error: NodeJS.ErrnoException | null, found: LookupAddress[]) => void;
type Resolve = (host: string, options: LookupAllOptions, done: Found) => void;

/** The connection goes to the addresses that were looked at, so that a second DNS answer changes nothing. Tests set `resolve`. */
export const checkedLookup =
  (resolve: Resolve = lookup): LookupFunction =>
  (host, options, callback) =>
    resolve(host, { ...options, all: true }, (error, found = []) => {
      const [first] = found;
      if (error || !first) callback(error, "");
      else if (found.some(({ address }) => isForbidden(address))) callback(refused(host), "");
      else if (options.all) callback(null, found);
      else callback(null, first.address, first.family);
    });
const checked = checkedLookup();

async function once({ url, headers }: Ask, { method = "GET", signal }: Sending): Promise<Answer> {
  const request = url.startsWith("https:") ? secureRequest : plainRequest;
  const host = new URL(url).hostname.replace(/^\[|\]$/g, "");
  if (isIP(host) && isForbidden(host)) throw refused(host); // nothing looks it up
  return new Promise((resolve, reject) => {
    // Ranges of compressed bodies would be other bytes.
    const call = request(url, { method, signal, lookup: checked, headers: { ...headers, "accept-encoding": "identity" } }, (body) => {
      body.on("error", () => {}); // the body's reader gets it
      resolve({ status: body.statusCode ?? 0, headers: headersOf(body.headers), body });
    });
    call.on("error", reject); // one may come after the answer; the body's reader gets it
    call.end();
  });
}

function headersOf(raw: IncomingHttpHeaders): Headers {
  const headers = new Headers();
  for (const [name, value] of Object.entries(raw)) if (value !== undefined) headers.set(name, String(value));
  return headers;
}
