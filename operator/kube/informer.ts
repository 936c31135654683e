// A local copy of one resource by list and watch, with jittered back-off and a new list after 410 or silence. Listeners get keys, not
// deltas.

import { AppError } from "../../crds/common.ts";
import { hasCode } from "./errors.ts";
import type { Kube, KubeObject, ListOptions, Ref, Resource, WatchEvent } from "./kube.ts";
import { keyOf, refOf } from "./kube.ts";
import { type Clock, monotonicClock } from "./workqueue.ts";

const restartBaseMs = 250;
const restartMaxMs = 20_000;
/** Bookmarks come every minute, so that a longer silence is a dead connection. */
const silenceMaxMs = 120_000;
/** A single failure may be a watch that broke off. */
const failuresForTrouble = 2;
/** A shorter watch without events is a failure. */
const shortWatchMs = 1_000;

export interface InformerDeps {
  readonly kube: Pick<Kube, "list" | "watch">;
  readonly clock?: Clock;
  readonly random?: () => number;
  readonly onError?: (error: unknown) => void;
}

export interface CopyForm {
  readonly keysOf?: (object: KubeObject) => readonly string[];
  readonly slim?: (object: KubeObject) => KubeObject;
  /** metadata.managedFields are read from the copy. */
  readonly keepsManagers?: boolean;
}

export type Listener = (object: KubeObject, change: "set" | "delete") => void;

export class Informer {
  readonly resource: Resource;
  readonly #options: ListOptions;
  readonly #deps: InformerDeps;
  readonly #clock: Clock;
  readonly #form: CopyForm;
  readonly #store = new Map<string, KubeObject>();
  readonly #found = new Map<string, Map<string, KubeObject>>();
  readonly #listeners: Listener[] = [];
  readonly #abort = new AbortController();
  #synced = false;
  #lastEvent = 0;
  #lastLoop = 0;
  #version = "";
  /** Failures in a row: all, and those since the last event or list. */
  #failures = 0;
  #unheard = 0;
  #failure = "";
  #forbidden = false;
  #absent = false;
  #waiting: (() => void)[] = [];
  #interrupt = new AbortController();
  #running: Promise<void> | undefined;

  constructor(resource: Resource, options: ListOptions, deps: InformerDeps, form: CopyForm = {}) {
    this.resource = resource;
    this.#form = form;
    this.#options = options;
    this.#deps = deps;
    this.#clock = deps.clock ?? monotonicClock;
  }

  onChange(listener: Listener): () => void {
    this.#listeners.push(listener);
    return () => {
      const at = this.#listeners.indexOf(listener);
      if (at >= 0) this.#listeners.splice(at, 1);
    };
  }

  start(): void {
    this.#lastEvent = this.#clock.now();
    this.#lastLoop = this.#lastEvent;
    this.#running ??= this.#run();
  }

  async stop(): Promise<void> {
    this.#abort.abort();
    await this.#running;
  }

  get hasSynced(): boolean {
    return this.#synced;
  }

  /** Milliseconds since the server sent anything, bookmarks included. */
  get silentMs(): number {
    return this.#clock.now() - this.#lastEvent;
  }

  /** Milliseconds since the loop did anything; it grows only when the loop hangs. */
  get stuckMs(): number {
    return this.#clock.now() - Math.max(this.#lastLoop, this.#lastEvent);
  }

  /** Why the copy is unreliable; undefined while it is current. */
  get trouble(): string | undefined {
    if (this.#unheard < failuresForTrouble) return this.#synced ? undefined : `${this.resource.plural} are not listed yet`;
    return this.#failure;
  }

  get forbidden(): boolean {
    return this.#forbidden && this.#unheard >= failuresForTrouble;
  }

  /** The informer tries again at least every 20 s. */
  get absent(): boolean {
    return this.#absent && this.#unheard >= failuresForTrouble;
  }

  /** Resolves after a list that began after this call, or with trouble. */
  refresh(): Promise<void> {
    return new Promise((resolve) => {
      this.#waiting.push(resolve);
      this.#interrupt.abort();
    });
  }

  /** The copy has every write up to this version. Empty before the first list. */
  get version(): string {
    return this.#version;
  }

  /** Undefined = all, or a cluster resource. */
  get namespace(): string | undefined {
    return this.#options.namespace;
  }

  follows(namespace: string | undefined): boolean {
    return this.#options.namespace === undefined || this.#options.namespace === namespace;
  }

  get(ref: Ref): KubeObject | undefined {
    return this.#store.get(keyOf(ref));
  }

  list(filter?: (object: KubeObject) => boolean): KubeObject[] {
    const all = [...this.#store.values()];
    return filter ? all.filter(filter) : all;
  }

  find(key: string): KubeObject[] {
    return [...(this.#found.get(key)?.values() ?? [])];
  }

  async #run(): Promise<void> {
    const signal = this.#abort.signal;
    let stale = true;
    while (!signal.aborted) {
      this.#lastLoop = this.#clock.now();
      this.#interrupt = new AbortController();
      try {
        if (stale || this.#waiting.length > 0) await this.#relist();
        stale = false;
        if (this.#waiting.length === 0) stale = !(await this.#follow());
      } catch (error) {
        if (signal.aborted) return;
        const expired = hasCode(error, "Expired");
        if (!expired) this.#deps.onError?.(error);
        this.#failed(error);
        // The version may be why a watch fails twice in a row.
        stale ||= expired || this.#failures > 1;
        await this.#pause();
      }
    }
  }

  #failed(error: unknown): void {
    this.#failures += 1;
    this.#unheard += 1;
    this.#forbidden = hasCode(error, "Forbidden");
    this.#absent = hasCode(error, "NotFound");
    this.#failure = `${this.resource.plural}: ${AppError.from(error).message}`;
    if (this.#unheard < failuresForTrouble) return;
    for (const resolve of this.#waiting.splice(0)) resolve();
  }

  async #pause(): Promise<void> {
    const ceiling = Math.min(restartBaseMs * 2 ** Math.min(this.#failures, 10), restartMaxMs);
    const ms = ceiling * (0.5 + 0.5 * (this.#deps.random ?? Math.random)());
    await new Promise<void>((resolve) => {
      const cancel = this.#clock.after(ms, done);
      const signal = AbortSignal.any([this.#abort.signal, this.#interrupt.signal]);
      if (signal.aborted) return done();
      signal.addEventListener("abort", done, { once: true });
      function done() {
        cancel();
        signal.removeEventListener("abort", done);
        resolve();
      }
    });
  }

  async #relist(): Promise<void> {
    const waiting = this.#waiting;
    this.#waiting = [];
    try {
      await this.#list();
    } catch (error) {
      this.#waiting.push(...waiting);
      throw error;
    }
    for (const resolve of waiting) resolve();
  }

  async #list(): Promise<void> {
    const { items, resourceVersion } = await this.#deps.kube.list(this.resource, this.#options);
    this.#lastEvent = this.#clock.now();
    const seen = new Set<string>();
    for (const item of items) {
      seen.add(keyOf(refOf(item)));
      this.#set(item);
    }
    for (const [key, object] of [...this.#store]) if (!seen.has(key)) this.#remove(key, object);
    this.#synced = true;
    this.#unheard = 0;
    this.#version = resourceVersion;
  }

  /** False when the watch fell silent or a list is requested. */
  async #follow(): Promise<boolean> {
    const began = this.#clock.now();
    const silence = new AbortController();
    const listen = () => this.#clock.after(silenceMaxMs, () => silence.abort());
    let stopListening = listen();
    let heard = false;
    const signal = AbortSignal.any([this.#abort.signal, silence.signal, this.#interrupt.signal]);
    try {
      for await (const event of this.#deps.kube.watch(this.resource, { ...this.#options, resourceVersion: this.#version, signal })) {
        heard = true;
        stopListening();
        stopListening = listen();
        this.#failures = 0;
        this.#unheard = 0;
        this.#take(event);
      }
    } catch (error) {
      if (!silence.signal.aborted && !this.#interrupt.signal.aborted) throw error;
    } finally {
      stopListening();
    }
    if (silence.signal.aborted || this.#interrupt.signal.aborted) return false;
    if (!heard && this.#clock.now() - began < shortWatchMs && !this.#abort.signal.aborted)
      throw new AppError("the watch ended at once", { code: "Unavailable", operation: `watching ${this.resource.plural}` });
    return true;
  }

  #take(event: WatchEvent): void {
    this.#lastEvent = this.#clock.now();
    if (event.type === "DELETED") this.#remove(keyOf(refOf(event.object)), event.object);
    else if (event.type !== "BOOKMARK") this.#set(event.object);
    this.#version = (event.type === "BOOKMARK" ? event.resourceVersion : event.object.metadata.resourceVersion) ?? this.#version;
  }

  #set(object: KubeObject): void {
    if (!this.#form.keepsManagers) delete object.metadata.managedFields; // large
    const key = keyOf(refOf(object));
    const before = this.#store.get(key);
    if (before?.metadata.resourceVersion === object.metadata.resourceVersion && before?.metadata.uid === object.metadata.uid) return;
    const held = this.#form.slim?.(object) ?? object;
    this.#unlist(key, before);
    this.#store.set(key, held);
    for (const found of this.#form.keysOf?.(held) ?? []) {
      const under = this.#found.get(found) ?? new Map<string, KubeObject>();
      this.#found.set(found, under.set(key, held));
    }
    for (const listener of this.#listeners) listener(held, "set");
  }

  #remove(key: string, object: KubeObject): void {
    const before = this.#store.get(key);
    if (!before) return;
    this.#store.delete(key);
    this.#unlist(key, before);
    for (const listener of this.#listeners) listener(object, "delete");
  }

  #unlist(key: string, before: KubeObject | undefined): void {
    for (const found of (before && this.#form.keysOf?.(before)) ?? []) {
      const under = this.#found.get(found);
      under?.delete(key);
      if (under?.size === 0) this.#found.delete(found);
    }
  }
}
