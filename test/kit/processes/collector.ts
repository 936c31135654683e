// A real OpenTelemetry collector as a child process on loopback: it takes OTLP and keeps every span in a file, which is read here.
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { stringify } from "yaml";
import { otlpTraces } from "../../../runtime/observe/otlp.ts";
import { freePort } from "../network/free-port.ts";
import { stop, until } from "./process.ts";

interface Received {
  readonly service: string;
  readonly name: string;
  readonly traceId: string;
  readonly spanId: string;
  /** Undefined where the trace begins. */
  readonly parentSpanId: string | undefined;
  readonly failed: boolean;
  /** Those of the process, and its own. */
  readonly attributes: Readonly<Record<string, unknown>>;
}

export interface Collector {
  readonly endpoint: string;
  /** Every span that has come so far. */
  spans(): Received[];
  stop(): Promise<void>;
}

const readyTimeoutMs = 30_000;

export async function startCollector(binary: string): Promise<Collector> {
  const folder = mkdtempSync(join(tmpdir(), "enodia-collector-"));
  const file = join(folder, "traces.json");
  const port = await freePort();
  const config = {
    receivers: { otlp: { protocols: { http: { endpoint: `127.0.0.1:${port}` } } } },
    exporters: { file: { path: file, flush_interval: "100ms" } },
    service: {
      telemetry: { metrics: { level: "none" }, logs: { level: "warn" } },
      pipelines: { traces: { receivers: ["otlp"], exporters: ["file"] } },
    },
  };
  writeFileSync(join(folder, "config.yaml"), stringify(config));
  const child = spawn(binary, [`--config=file:${join(folder, "config.yaml")}`], { stdio: ["ignore", "ignore", "inherit"] });
  const close = async (): Promise<void> => {
    await stop(child);
    rmSync(folder, { recursive: true, force: true });
  };
  try {
    await until("the collector to listen", () => listens(port), { timeoutMs: readyTimeoutMs });
  } catch (error) {
    await close();
    throw error;
  }
  return { endpoint: `http://127.0.0.1:${port}`, spans: () => (existsSync(file) ? spansOf(readFileSync(file, "utf8")) : []), stop: close };
}

const listens = (port: number): Promise<true | undefined> =>
  new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1");
    socket.once("error", () => resolve(undefined));
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
  });

/** One export a line, as OTLP's JSON; the last line may still be being written. */
function spansOf(text: string): Received[] {
  const exports = text.split("\n").slice(0, -1);
  return exports
    .flatMap((line) => otlpTraces.parse(JSON.parse(line)).resourceSpans)
    .flatMap(({ resource, scopeSpans }) =>
      scopeSpans.flatMap(({ spans }) =>
        spans.map(({ name, traceId, spanId, parentSpanId, status, attributes }) => ({
          service: String(resource.attributes["service.name"]),
          ...{ name, traceId, spanId, parentSpanId: parentSpanId || undefined, failed: status?.code === 2 },
          attributes: { ...resource.attributes, ...attributes },
        })),
      ),
    );
}
