// Runs one step: KV changes, rows through the layers, a token per requested row, times.
import { AppError } from "../../../crds/common.ts";
import type { StepKind } from "../../../crds/telemetry.ts";
import type { Languages } from "../../constraints/languages.ts";
import type { EngineStats } from "../api.ts";
import type { FrameScheduler, StepClock } from "../pass/frame-scheduler.ts";
import type { Choose, Head } from "../pass/head.ts";
import type { PromptLogprobs } from "../pass/prompt-logprobs.ts";
import type { RequestHosts } from "../pass/request-hosts.ts";
import type { SpreadHeads } from "../pass/spread-heads.ts";
import { forward } from "../pass/step.ts";
import type { StepHead, StepTools } from "../pass/step-tools.ts";
import type { Batcher } from "../schedule/batch.ts";
import type { SlotChange } from "../schedule/kv-ledger.ts";
import { firstNotFinite, squaredMost, unusableNumber } from "../schedule/sampling/finite.ts";
import type { OpenSampling } from "../schedule/sampling/open-sampling.ts";
import type { Sampled } from "../schedule/sampling/sampler.ts";
import { decodesOf, idsOf, isGuess, kindOf, partsOf, type Step } from "../schedule/step-plan.ts";
import type { KvOffload } from "./kv-offload.ts";
import type { FromEngine } from "./messages.ts";
import type { OpenModel } from "./open.ts";
import type { Requests } from "./requests.ts";

const stepSecondsMax = 4_096;
/** Prompts' tokens whose time tells that of the next ones. */
const tokensRemembered = 1_024;
/** What walks over the vocabulary may add to a step, by whether others wait: open requests, or ranks (../DECISIONS.md 9). */
const walkMs = { beside: 10, alone: 50 };

interface Parts {
  readonly model: Pick<OpenModel, "kv" | "program" | "finalNorm">;
  readonly batcher: Batcher;
  readonly hosts: Pick<RequestHosts, "counterOf">;
  readonly connections: { readonly isAlone: boolean };
  readonly languages: Pick<Languages, "walk">;
  readonly requests: Requests;
  readonly scheduler: FrameScheduler;
  /** Unset: heads stay here. */
  readonly spread?: Pick<SpreadHeads, "of"> | undefined;
  readonly head: Head;
  readonly prompts: PromptLogprobs;
  readonly tools: StepTools;
  readonly send: (message: FromEngine) => void;
  readonly offload?: Pick<KvOffload, "restore"> | undefined;
}

interface Ended {
  readonly tokens: (Sampled | undefined)[];
  /** Errors by request. */
  readonly unusable: Map<string, AppError>;
  readonly ms: number;
}

type StepStats = Pick<EngineStats, "prefillTokens" | "decodeTokens" | "stepSeconds" | "waitedSeconds">;

export class Steps {
  readonly #parts: Parts;
  readonly #tokens = { prefillTokens: 0, decodeTokens: 0 };
  readonly #waitedSeconds: Record<StepKind, number> = { prefill: 0, decode: 0, mixed: 0 };
  #stepSeconds = noSeconds();
  /** The last prompts' tokens and their time, earlier ones less. */
  #prompts = { tokens: 0, ms: 0 };

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  async run(step: Step): Promise<void> {
    const { batcher, connections, head, hosts, languages, model, prompts, requests, scheduler, spread } = this.#parts;
    languages.walk(connections.isAlone && batcher.openIds().length <= 1 ? walkMs.alone : walkMs.beside);
    const kind = kindOf(step.tokens.length, decodesOf(step));
    if (kind === "decode" && scheduler.running === kind) await scheduler.together(); // prompts do not wait for others
    const start = scheduler.clock;
    scheduler.running = kind;
    // ../DECISIONS.md 7
    for (const change of step.changes) await this.change(change);
    const changed = scheduler.clock;
    batcher.changed(step, changed.ms - start.ms);
    try {
      const chose = connections.isAlone ? undefined : hosts.counterOf(partsOf(step), step.tokens.length);
      const judge = (x: Float32Array) => ({ unusable: unusableRows(step, x, model.program.hidden), ms: scheduler.clock.ms - changed.ms });
      const taken: Ended[] = [];
      const take: StepHead["take"] = ({ x, head: found }) => {
        const judged = judge(x);
        taken.push({ ...judged, tokens: this.#choose(step, x, judged.unusable, head.chooser(found)) });
      };
      const readsRows = prompts.wants(step) || step.wanted.some(({ embed }) => embed);
      const stepHead = readsRows ? undefined : { ...head.rowsOf(step.wanted), take };
      const heads = spread?.of(step, (id) => batcher.lengthOf(id));
      const tools = traced({ ...this.#parts.tools, chose, heads, head: stepHead }, requests.traceOf(idsOf(step)));
      const x = await forward(tools, step.tokens, { cache: model.kv, groups: step.groups }, decodesOf(step));
      const { tokens, unusable, ms } = taken[0] ?? (await this.#sample(step, x, judge(x)));
      batcher.complete(step, tokens, ms);
      const open = batcher.openIds(); // a request that ended before its bad row loses nothing
      for (const [id, error] of unusable) if (open.includes(id)) requests.fail(id, error, "unusable");
    } catch (caught) {
      batcher.failed(step, scheduler.clock.ms - start.ms);
      for (const id of idsOf(step)) requests.fail(id, caught);
    }
    this.#count(step, start);
  }

  takeStats(): StepStats {
    const stepSeconds = this.#stepSeconds;
    this.#stepSeconds = noSeconds();
    return { ...this.#tokens, stepSeconds, waitedSeconds: this.#waitedSeconds };
  }

  /** Milliseconds of a token in a step of prompts alone; undefined before there was one. */
  get promptTokenMs(): number | undefined {
    const { tokens, ms } = this.#prompts;
    return tokens > 0 ? ms / tokens : undefined;
  }

  async change(change: SlotChange): Promise<void> {
    const { kv } = this.#parts.model;
    switch (change.kind) {
      case "copy":
        return kv.copySlot(change.from, change.to, change.length);
      case "move":
        return kv.moveSlot(change.from, change.to, change.length);
      case "trim":
        return kv.trimSlot(change.slot, change.length);
      case "write":
        return this.#parts.offload?.restore(change.data, () => kv.writeRows(change.slot, change.from, change.data));
    }
  }

  async #sample(step: Step, x: Float32Array, judged: Omit<Ended, "tokens">): Promise<Ended> {
    const { head, prompts, scheduler } = this.#parts;
    const [{ unusable }, startedAt] = [judged, scheduler.clock.ms];
    await prompts.tell(step, x, unusable);
    const ms = judged.ms + scheduler.clock.ms - startedAt;
    const wanted = step.wanted.filter(({ embed }) => !embed);
    return { unusable, ms, tokens: await head.run(x, wanted, (choose) => this.#choose(step, x, unusable, choose)) };
  }

  #choose({ wanted, tokens }: Step, x: Float32Array, unusable: Map<string, AppError>, choose: Choose): (Sampled | undefined)[] {
    const { hidden } = this.#parts.model.program;
    let next = 0;
    let last: Sampled | undefined;
    return wanted.map(({ id, row, sampling, position, embed, guess }) => {
      const own = embed ? next : next++;
      const wrong = guess !== undefined && guess > 0 && last?.token !== tokens[row];
      if (wrong) last = undefined;
      if (wrong || unusable.has(id)) return undefined;
      const values = x.subarray(row * hidden, (row + 1) * hidden);
      try {
        if (embed) return this.#embed(id, values);
        if (guess !== undefined) checkRow(values, position);
        last = accepted(choose(own, sampling, position), sampling, position);
        return last;
      } catch (caught) {
        unusable.set(id, AppError.from(caught));
        return undefined;
      }
    });
  }

  /** An embedding has no token; the batch takes the returned one. */
  #embed(id: string, row: Float32Array): Sampled {
    const values = embeddingOf(row, this.#parts.model.finalNorm as Float32Array);
    this.#parts.send({ type: "events", notices: [{ id, event: { type: "embedding", values } }] });
    return { token: 0, logprob: 0 };
  }

  #count(step: Step, start: StepClock): void {
    const [rows, decodes] = [step.tokens.length, decodesOf(step)];
    const kind = kindOf(rows, decodes);
    this.#tokens.decodeTokens += decodes;
    this.#tokens.prefillTokens += rows - decodes;
    const { ms, waitedMs } = this.#parts.scheduler.clock;
    if (kind === "prefill") {
      const kept = tokensRemembered / (tokensRemembered + rows);
      this.#prompts = { tokens: kept * (this.#prompts.tokens + rows), ms: kept * (this.#prompts.ms + ms - start.ms) };
    }
    this.#waitedSeconds[kind] += Math.max(0, waitedMs - start.waitedMs) / 1000;
    if (this.#stepSeconds[kind].length < stepSecondsMax) this.#stepSeconds[kind].push((ms - start.ms) / 1000);
  }
}

const traced = (tools: StepTools, traceparent: string | undefined): StepTools =>
  traceparent === undefined ? tools : { ...tools, dispatch: (frame, gatesOf) => tools.dispatch({ ...frame, traceparent }, gatesOf) };

function accepted(sampled: Sampled | undefined, sampling: OpenSampling, position: number): Sampled | undefined {
  if (sampled) sampling.accept(sampled.token, position);
  return sampled;
}

function noSeconds(): Record<StepKind, number[]> {
  return { prefill: [], decode: [], mixed: [] };
}

/** Throws AppError `UnusableLogits`. */
export function embeddingOf(row: Float32Array, normWeight: Float32Array): Float32Array {
  const bad = firstNotFinite(row);
  if (bad >= 0) throw unusableNumber(`value ${bad} of the row that is to be the embedding`, row[bad] as number);
  const values = Float64Array.from(row, (value, i) => value * (normWeight[i] as number));
  let squares = 0;
  for (const value of values) squares += value * value;
  const length = Math.sqrt(squares);
  if (!(length > 0)) throw unusableNumber("the length of the embedding", length);
  return Float32Array.from(values, (value) => value / length);
}

/** Errors by request. Rows without logits count too: later tokens would attend to them, and a rounding backend may lose a NaN there. */
function unusableRows(step: Pick<Step, "groups">, x: Float32Array, hidden: number): Map<string, AppError> {
  const found = new Map<string, AppError>();
  if (firstNotFinite(x, squaredMost) < 0) return found;
  for (const { id, group, from, past } of partsOf(step)) {
    if (isGuess(group)) continue;
    const rows = x.subarray(from * hidden, (from + group.tokens) * hidden);
    const at = firstNotFinite(rows, squaredMost);
    if (at < 0) continue;
    const position = past + Math.floor(at / hidden);
    found.set(id, unusableNumber(`the row from which the logits of position ${position} come, value ${at % hidden},`, rows[at] as number));
  }
  return found;
}

/** Throws AppError `UnusableLogits`. */
function checkRow(row: Float32Array, position: number): void {
  const at = firstNotFinite(row);
  if (at >= 0) throw unusableNumber(`the row from which output token ${position} comes, value ${at},`, row[at] as number);
}
