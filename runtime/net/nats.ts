// Core NATS as an optional bus: start-up does not wait for it, it reconnects for ever, and messages are dropped and counted while it
// is away.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { connect, credsAuthenticator, type NatsConnection, type Subscription, tokenAuthenticator } from "nats";
import { AppError, messageOf } from "../../crds/common.ts";
import { type NatsAccess, natsAccessOf, natsCredentialEntries, natsEntries } from "../../crds/nats-access.ts";

interface BusStatus {
  readonly connected: boolean;
  readonly reason: string;
  readonly message?: string;
}

export interface Bus {
  readonly status: BusStatus;
  readonly dropped: number;
  /** False when it was not sent. Never blocks or throws. */
  publish(subject: string, payload: string | Uint8Array): boolean;
  subscribe(subject: string, handler: (bytes: Uint8Array, subject: string) => void): () => void;
  onStatus(listener: (status: BusStatus) => void): () => void;
  close(): Promise<void>;
}

export interface BusOptions {
  readonly url: string;
  /** Called at every attempt, so that a rotated Secret works. Throws when credentials are missing. */
  readonly access?: (() => Promise<NatsAccess>) | undefined;
  readonly name: string;
}

const connectTimeoutMs = 5_000;
const retryFirstMs = 500;
const retryMaxMs = 5_000;
const pingIntervalMs = 5_000;
const closeTimeoutMs = 1_000;

export function createBus(options: BusOptions): Bus {
  return new NatsBus(options);
}

/** `path` is a file, or the folder of a mounted Secret. */
export function accessAt(path: string): () => Promise<NatsAccess> {
  const read = (place: string): Promise<string> => readFile(place, "utf8").catch(() => "");
  return async () => {
    const entries = await Promise.all(natsEntries.map(async (entry) => [entry, await read(join(path, entry))] as const));
    const access = natsAccessOf(Object.fromEntries(entries)) ?? natsAccessOf({ token: await read(path) });
    if (access) return access;
    throw new AppError(`${path} holds no NATS credentials: neither a file nor a folder with ${natsCredentialEntries.join(" or ")}`, {
      code: "CredentialsNotFound",
      operation: "reading NATS credentials",
      retry: "backoff",
    });
  };
}

interface ServerFacts {
  readonly version: string;
  readonly payloadBytesMax: number;
  readonly encrypted: boolean;
  readonly authenticated: boolean;
}

/** Connects once. Throws AppError with the reason for a failure. */
export async function askServer(options: BusOptions): Promise<ServerFacts> {
  try {
    const connection = await connect({ ...(await clientOptions(options)), reconnect: false });
    const { info } = connection;
    await connection.close();
    if (!info) throw new Error("the server said nothing of itself");
    const { version, max_payload: payloadBytesMax } = info;
    return { version, payloadBytesMax, encrypted: info.tls_required === true, authenticated: info.auth_required === true };
  } catch (error) {
    const { reason, message } = why(error);
    throw new AppError(message ?? "no connection", { code: reason, operation: "connecting to NATS", cause: error });
  }
}

async function clientOptions({ url, name, access }: BusOptions) {
  return { servers: url, name, timeout: connectTimeoutMs, ...(await accessOptions(url, access)) };
}

async function accessOptions(url: string, access: BusOptions["access"]) {
  const { credentials, ca } = (await access?.()) ?? {};
  // Requested TLS is mandatory: a server without it receives no token.
  const tls = ca !== undefined || url.startsWith("tls://") ? { tls: ca === undefined ? {} : { ca } } : {};
  if (credentials === undefined) return tls;
  const isCreds = credentials.includes("BEGIN NATS USER JWT");
  return { ...tls, authenticator: isCreds ? credsAuthenticator(Buffer.from(credentials)) : tokenAuthenticator(credentials.trim()) };
}

class NatsBus implements Bus {
  readonly #options: BusOptions;
  readonly #listeners = new Set<(status: BusStatus) => void>();
  readonly #subscriptions = new Map<
    symbol,
    { subject: string; handler: (bytes: Uint8Array, subject: string) => void; live?: Subscription }
  >();
  readonly #closing = new AbortController();
  readonly #loop: Promise<void>;
  #connection: NatsConnection | undefined;
  #status: BusStatus = { connected: false, reason: "Connecting" };
  #dropped = 0;

  constructor(options: BusOptions) {
    this.#options = options;
    this.#loop = this.#run();
  }
  get status(): BusStatus {
    return this.#status;
  }
  get dropped(): number {
    return this.#dropped;
  }

  publish(subject: string, payload: string | Uint8Array): boolean {
    if (this.#connection !== undefined && this.#status.connected) {
      try {
        this.#connection.publish(subject, payload);
        return true;
      } catch {
        // closed meanwhile: counted as dropped below
      }
    }
    this.#dropped += 1;
    return false;
  }

  subscribe(subject: string, handler: (bytes: Uint8Array, subject: string) => void): () => void {
    const key = Symbol(subject);
    this.#subscriptions.set(key, { subject, handler });
    this.#attach();
    return () => {
      this.#subscriptions.get(key)?.live?.unsubscribe();
      this.#subscriptions.delete(key);
    };
  }

  onStatus(listener: (status: BusStatus) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async close(): Promise<void> {
    this.#closing.abort();
    const connection = this.#connection;
    if (connection !== undefined) {
      // a drain flushes the last messages; an absent server must not block the shutdown
      await Promise.race([connection.drain().catch(() => {}), new Promise((resolve) => setTimeout(resolve, closeTimeoutMs).unref())]);
      await connection.close().catch(() => {});
    }
    // A pending connection closes itself once it is open.
    await Promise.race([this.#loop, new Promise((resolve) => setTimeout(resolve, closeTimeoutMs).unref())]);
  }

  /** The client reconnects except after errors such as authorization; then this loop starts again. */
  async #run(): Promise<void> {
    let waitMs = retryFirstMs;
    while (!this.#closing.signal.aborted) {
      try {
        const connection = await connect({
          pingInterval: pingIntervalMs,
          maxPingOut: 2,
          maxReconnectAttempts: -1,
          reconnectTimeWait: retryFirstMs,
          ...(await clientOptions(this.#options)),
        });
        waitMs = retryFirstMs;
        if (this.#closing.signal.aborted) await connection.close();
        else await this.#serve(connection);
      } catch (error) {
        this.#set({ connected: false, ...why(error) });
      }
      this.#connection = undefined;
      for (const entry of this.#subscriptions.values()) delete entry.live;
      await sleep(waitMs, this.#closing.signal);
      waitMs = Math.min(waitMs * 2, retryMaxMs);
    }
    this.#set({ connected: false, reason: "Closed" });
  }

  async #serve(connection: NatsConnection): Promise<void> {
    this.#connection = connection;
    this.#set({ connected: true, reason: "Connected" });
    this.#attach();
    const states = (async () => {
      for await (const event of connection.status()) {
        if (event.type === "disconnect" || event.type === "staleConnection") this.#set({ connected: false, reason: "Disconnected" });
        if (event.type === "reconnect") this.#set({ connected: true, reason: "Connected" });
        if (event.type === "error") this.#set({ connected: !connection.isClosed() && this.#status.connected, ...why(event.error) });
      }
    })();
    const error = await connection.closed();
    await states;
    this.#set({ connected: false, ...(error === undefined ? { reason: "Disconnected" } : why(error)) });
  }

  #attach(): void {
    if (this.#connection === undefined) return;
    for (const entry of this.#subscriptions.values()) {
      if (entry.live !== undefined) continue;
      entry.live = this.#connection.subscribe(entry.subject, {
        callback: (error, message) => {
          if (error !== null) return;
          try {
            entry.handler(message.data, message.subject);
          } catch {
            // one bad message must not end the subscription
          }
        },
      });
    }
  }

  #set(status: BusStatus): void {
    if (status.connected === this.#status.connected && status.reason === this.#status.reason) return;
    this.#status = status;
    for (const listener of this.#listeners) listener(status);
  }
}

function why(error: unknown): Pick<BusStatus, "reason" | "message"> {
  if (error instanceof AppError) return { reason: error.code, message: error.message };
  const text = messageOf(error);
  if (/authorization|authentication|permissions/i.test(`${error}`)) return { reason: "AuthorizationViolation" };
  return { reason: text.slice(0, 200) };
}

function sleep(ms: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", done, { once: true });
    function done() {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    }
  });
}
