// The other engine of the benchmarks: llama.cpp in a child process, with the same weights, asked for one thing at a time. Before anything
// is timed it must agree with ours about what comes next: a peer that computes another model is none.

import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync } from "node:fs";
import { join } from "node:path";
import { AppError } from "../../../crds/common.ts";
import { stop } from "../../kit/processes/process.ts";
import { within } from "../../kit/wait.ts";

import type { PeerDevice } from "./library.ts";

/** How so many threads and texts of so many tokens at most are computed. */
interface Setting {
  readonly threads: number;
  readonly tokens: number;
}

export type Order =
  | { readonly kind: "load"; readonly path: string; readonly vocab: number; readonly on: PeerDevice; readonly onlyMapped: boolean }
  | (Setting & { readonly kind: "gaps"; readonly prompt: readonly number[]; readonly continuation: readonly number[] })
  | (Setting & { readonly kind: "decode"; readonly texts: readonly (readonly number[])[]; readonly promptTokens: number })
  | (Setting & { readonly kind: "prefill"; readonly text: readonly number[] })
  | (Setting & { readonly kind: "logits"; readonly text: readonly number[] });

export type Answer = { readonly values: number[] } | { readonly error: string };

/** Logits between our token and the peer's best one that rounding explains: activations are rounded to int8 blocks on both sides, and the
 *  peer keeps keys and values as halves. Another rotation or gate is off by several. */
const gapMax = 1;
/** The same, of all logits of a text. */
const offMax = 0.05;
/** Two threads that spin for each other on one processor may take for ever; on a busy machine all takes long. */
const answerMs = 600_000;
/** The last words of the child that are told when it ends. */
const wordsMax = 2_000;

export interface PeerOptions {
  /** The GGUF file. */
  readonly path: string;
  readonly vocab: number;
  readonly on: PeerDevice;
  readonly log: (line: string) => void;
  /** See LlamaLibrary. */
  readonly onlyMapped?: boolean;
  /** A file that gets what it prints, the nodes of its graphs too; a pipe would lose some of that. */
  readonly printsTo?: string;
  /** Called with the process before it loads the file. */
  readonly joins?: (pid: number) => void;
}

export class Peer {
  readonly #child: ChildProcess;
  readonly #ended: Promise<never>;
  #words = "";

  private constructor(child: ChildProcess) {
    this.#child = child;
    this.#ended = once(child, "exit").then(([code]) => {
      throw new AppError(`llama.cpp ended with ${code}: ${this.#words}`, { code: "BackendUnavailable" });
    });
    this.#ended.catch(() => {}); // it may end when nothing is asked of it
    child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      this.#words = (this.#words + text).slice(-wordsMax);
    });
  }

  /** Starts the process and loads the file. Throws AppError `BackendUnavailable` with the reason why there is no llama.cpp. */
  static async start({ path, vocab, on, onlyMapped = false, log, printsTo, joins }: PeerOptions): Promise<Peer> {
    log(`llama.cpp: ${path}`);
    const stderr = printsTo === undefined ? "pipe" : openSync(printsTo, "w");
    const child = fork(join(import.meta.dirname, "child.ts"), {
      ...{ stdio: ["ignore", "ignore", stderr, "ipc"], serialization: "advanced" },
      env: Object.assign({}, process.env, printsTo === undefined ? {} : { GGML_SCHED_DEBUG: "2" }),
    });
    if (typeof stderr === "number") closeSync(stderr);
    const peer = new Peer(child);
    try {
      joins?.(child.pid as number);
      await peer.#ask({ kind: "load", path, vocab, on, onlyMapped });
      return peer;
    } catch (caught) {
      await peer.close();
      throw caught;
    }
  }

  /** Throws AppError `PeerDisagrees` where the peer would have gone on with another token, by more than rounding explains. */
  async agree(texts: readonly { readonly prompt: readonly number[]; readonly continuation: readonly number[] }[]): Promise<number> {
    let worst = 0;
    for (const text of texts) worst = Math.max(worst, ...(await this.#ask({ kind: "gaps", threads: 1, tokens: 256, ...text })));
    if (worst <= gapMax) return worst;
    throw new AppError(`llama.cpp disagrees: a token of ours is ${worst.toFixed(2)} below its best logit, ${gapMax} is explained`, {
      code: "PeerDisagrees",
    });
  }

  /** Tokens per second of all texts together. */
  async decode(order: Omit<Extract<Order, { kind: "decode" }>, "kind">): Promise<number> {
    const [seconds = 0, steps = 0] = await this.#ask({ kind: "decode", ...order });
    return (steps * order.texts.length) / seconds;
  }

  /** Tokens per second. */
  async prefill(order: Omit<Extract<Order, { kind: "prefill" }>, "kind">): Promise<number> {
    const [seconds = 0] = await this.#ask({ kind: "prefill", ...order });
    return order.text.length / seconds;
  }

  /** How far its logits behind a text are from ours, as a share of their length. Throws AppError `PeerDisagrees` where that is more than
   *  rounding explains. */
  async agreeOnLogits(order: Omit<Extract<Order, { kind: "logits" }>, "kind">, ours: Float32Array): Promise<number> {
    const theirs = await this.#ask({ kind: "logits", ...order });
    const lengthOf = (values: readonly number[]): number => Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
    const off = lengthOf(theirs.map((value, i) => value - (ours[i] ?? Number.NaN))) / lengthOf(theirs);
    if (off <= offMax) return off;
    throw new AppError(`llama.cpp disagrees: its logits are ${off.toExponential(1)} off, ${offMax} is explained`, {
      code: "PeerDisagrees",
    });
  }

  async close(): Promise<void> {
    await stop(this.#child);
  }

  /** What it wrote of an error: the C functions answer with none. */
  #cause(): string {
    const cause = this.#words.split("\n").findLast((line) => line.includes("error loading model:"));
    return cause === undefined ? "" : `: ${cause.replace(/^.*error loading model: /, "")}`;
  }

  async #ask(order: Order): Promise<number[]> {
    const answered = within(answerMs, once(this.#child, "message"), `llama.cpp answers "${order.kind}"`);
    this.#child.send(order);
    const [answer] = (await Promise.race([answered, this.#ended])) as [Answer];
    if ("error" in answer) throw new AppError(`${answer.error}${this.#cause()}`, { code: "BackendUnavailable" });
    return answer.values;
  }
}
