// kubectl as a user has it: apply, get, patch, proxy. The tests use what a platform engineer would type.
import { spawn } from "node:child_process";
import type { KubeConfig } from "@kubernetes/client-node";
import { createTransport, loadKubeConfig, type Transport } from "../../../operator/kube/transport.ts";
import { exec, execOk, stop, until } from "../processes/process.ts";

export interface KubeObject {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly namespace?: string; readonly uid?: string; readonly [field: string]: unknown };
  readonly [field: string]: any;
}

export interface Forward {
  readonly url: string;
  close(): Promise<void>;
}

export class Kubectl {
  readonly binary: string;
  readonly flags: readonly string[];
  readonly #signal: AbortSignal | undefined;
  readonly #config: () => KubeConfig;
  #transport: Transport | undefined;

  /** `signal`: when aborted, commands under way are ended and everything that waits throws its reason. */
  constructor(binary: string, options: { kubeconfig?: string; context?: string; namespace?: string; signal?: AbortSignal | undefined }) {
    this.binary = binary;
    this.#signal = options.signal;
    this.#config = () => loadKubeConfig(options.kubeconfig, options.context);
    this.flags = [
      ...(options.kubeconfig ? ["--kubeconfig", options.kubeconfig] : []),
      ...(options.context ? ["--context", options.context] : []),
      ...(options.namespace ? ["--namespace", options.namespace] : []),
    ];
  }

  run(args: readonly string[], input?: string): Promise<string> {
    return execOk(this.binary, [...this.flags, ...args], { signal: this.#signal, ...(input === undefined ? {} : { input }) });
  }

  try(args: readonly string[], input?: string): ReturnType<typeof exec> {
    return exec(this.binary, [...this.flags, ...args], { signal: this.#signal, ...(input === undefined ? {} : { input }) });
  }

  /** What `kubectl get --raw` prints, without a process, which takes 80 ms of a processor from what is tested. */
  raw(path: string, timeoutMs: number): Promise<string> {
    this.#transport ??= createTransport(this.#config());
    const late = AbortSignal.timeout(timeoutMs);
    return this.#transport.request({ method: "GET", path, signal: this.#signal ? AbortSignal.any([this.#signal, late]) : late });
  }

  apply(...objects: readonly object[]): Promise<string> {
    return this.run(
      ["apply", "--server-side", "--force-conflicts", "-f", "-"],
      objects.map((object) => JSON.stringify(object)).join("\n---\n"),
    );
  }

  async get(kind: string, name: string): Promise<KubeObject> {
    return JSON.parse(await this.run(["get", kind, name, "-o", "json"])) as KubeObject;
  }

  async list(kind: string, selector?: string): Promise<readonly KubeObject[]> {
    const args = ["get", kind, "-o", "json", ...(selector ? ["-l", selector] : [])];
    return (JSON.parse(await this.run(args)) as { items: KubeObject[] }).items;
  }

  /** Waits until `accept` holds of the object; the error shows its conditions. */
  async waitFor(kind: string, name: string, what: string, accept: (object: KubeObject) => boolean, timeoutMs: number): Promise<KubeObject> {
    let last: KubeObject | undefined;
    try {
      return await until(
        what,
        async () => {
          last = await this.get(kind, name);
          return accept(last) ? last : undefined;
        },
        { timeoutMs, everyMs: 500, signal: this.#signal },
      );
    } catch (error) {
      this.#signal?.throwIfAborted();
      const conditions = last?.status?.conditions as { type: string; status: string; reason: string; message?: string }[] | undefined;
      const seen = conditions?.map((c) => `  ${c.type}=${c.status} ${c.reason} ${c.message ?? ""}`).join("\n");
      throw new Error(`${String(error)}\n${kind}/${name}:\n${seen ?? JSON.stringify(last?.status)}`);
    }
  }

  /** `kubectl proxy` to the API server, on a free local port. Through it a Service is reached as such, whatever becomes of its pods. */
  async proxy(): Promise<Forward> {
    const child = spawn(this.binary, [...this.flags, "proxy", "--port=0"], { stdio: ["ignore", "pipe", "pipe"] });
    let out = "";
    child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
      out += chunk;
    });
    child.stderr.setEncoding("utf8").on("data", (chunk: string) => {
      out += chunk;
    });
    try {
      const local = await until(
        "kubectl proxy",
        () => {
          if (child.exitCode !== null) throw new Error(out.trim());
          return /127\.0\.0\.1:(\d+)/.exec(out)?.[1];
        },
        { timeoutMs: 15_000, everyMs: 50, signal: this.#signal },
      );
      return { url: `http://127.0.0.1:${local}`, close: () => stop(child) };
    } catch (error) {
      await stop(child);
      throw error;
    }
  }
}

/** The condition of a type, or undefined: `condition(moed, "Ready")?.status`. */
export function condition(object: KubeObject, type: string): { status: string; reason: string; message?: string } | undefined {
  const all = (object.status?.conditions ?? []) as { type: string; status: string; reason: string; message?: string }[];
  return all.find((c) => c.type === type);
}
