// A local copy of one resource that follows the API server: list, then watch with bookmarks; restarts with jittered back-off
// after any error, lists again on 410 and after silence, and knows how far it has heard. Consumers get keys, never deltas.

import { AppError } from "../../crds/common.ts";
import { hasCode } from "./errors.ts";
import type { Kube, KubeObject, ListOptions, Ref, Resource, WatchEvent } from "./kube.ts";
import { keyOf, refOf } from "./kube.ts";
import { type Clock, monotonicClock } from "./workqueue.ts";

const restartBaseMs = 250;
const restartMaxMs = 20_000;
/** Bookmarks come about every minute: a watch that is silent for longer hangs on a dead connection. */
const silenceMaxMs = 120_000;
/** One failure is a watch that broke off and is begun again; from the second on the server refuses us, or is not there. */
const failuresForTrouble = 2;
/** A watch that ends sooner without a word has failed, whatever the server calls it. */
const shortWatchMs = 1_000;

export interface InformerDeps {
  readonly kube: Pick<Kube, "list" | "watch">;
  readonly clock?: Clock;
  readonly random?: () => number;
  /** Called with every failed list or watch. */
  readonly onError?: (error: unknown) => void;
}

/** The form in which a copy is held. */
export interface CopyForm {
  /** The keys under which an object is found without a look at all of them; it may have several, or none. */
  readonly keysOf?: (object: KubeObject) => readonly string[];
  /** The object without what nobody reads of it. */
  readonly slim?: (object: KubeObject) => KubeObject;
}

export type Listener = (object: KubeObject, change: "set" | "delete") => void;

export class Informer {
  readonly resource: Resource;
  readonly #options: ListOptions;
  readonly #deps: InformerDeps;
  readonly #clock: Clock;
  readonly #form: CopyForm;
  readonly #store = new Map<string, KubeObject>();
  /** Objects by the keys of `CopyForm`, each under its key in the store. */
  readonly #found = new Map<string, Map<string, KubeObject>>();
  readonly #listeners: Listener[] = [];
  readonly #abort = new AbortController();
  #synced = false;
  #lastEvent = 0;
  #lastTurn = 0;
  #version = "";
  /** Failures in a row: of all kinds, which is what pauses grow by, and since something was heard or listed. */
  #failures = 0;
  #unheard = 0;
  #failure = "";
  #forbidden = false;
  #absent = false;
  /** Those who wait for a list that begins after they asked. */
  #waiting: (() => void)[] = [];
  /** Ends the watch or the pause of this turn. */
  #interrupt = new AbortController();
  #running: Promise<void> | undefined;

  constructor(resource: Resource, options: ListOptions, deps: InformerDeps, form: CopyForm = {}) {
    this.resource = resource;
    this.#form = form;
    this.#options = options;
    this.#deps = deps;
    this.#clock = deps.clock ?? monotonicClock;
  }

  /** Returns how to stop listening. */
  onChange(listener: Listener): () => void {
    this.#listeners.push(listener);
    return () => {
      const at = this.#listeners.indexOf(listener);
      if (at >= 0) this.#listeners.splice(at, 1);
    };
  }

  start(): void {
    this.#lastEvent = this.#clock.now();
    this.#lastTurn = this.#lastEvent;
    this.#running ??= this.#run();
  }

  async stop(): Promise<void> {
    this.#abort.abort();
    await this.#running;
  }

  /** A first list went through since start. */
  get hasSynced(): boolean {
    return this.#synced;
  }

  /** Milliseconds since the server last sent anything, bookmarks included; before that, since start. */
  get silentMs(): number {
    return this.#clock.now() - this.#lastEvent;
  }

  /** Milliseconds since this informer last began to list or watch, or heard something: it grows only where its loop hangs. */
  get stuckMs(): number {
    return this.#clock.now() - Math.max(this.#lastTurn, this.#lastEvent);
  }

  /** The reason why the copy is not to be acted on; undefined while it is held and followed. */
  get trouble(): string | undefined {
    if (this.#unheard < failuresForTrouble) return this.#synced ? undefined : `${this.resource.plural} are not listed yet`;
    return this.#failure;
  }

  /** True when the server does not let us have this resource. */
  get forbidden(): boolean {
    return this.#forbidden && this.#unheard >= failuresForTrouble;
  }

  /** True when the server does not have this resource. It is asked for again after 20 s at most. */
  get absent(): boolean {
    return this.#absent && this.#unheard >= failuresForTrouble;
  }

  /** Lists anew, and resolves when a list that began after this question went through, or when there is trouble. */
  refresh(): Promise<void> {
    return new Promise((resolve) => {
      this.#waiting.push(resolve);
      this.#interrupt.abort();
    });
  }

  /** The newest resourceVersion heard: every write up to it is in the copy. Empty before the first list. */
  get version(): string {
    return this.#version;
  }

  /** The namespace that is followed; undefined = all, or a resource without namespaces. */
  get namespace(): string | undefined {
    return this.#options.namespace;
  }

  /** True when objects of this namespace are in the copy. */
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

  /** The objects that are found under a key. */
  find(key: string): KubeObject[] {
    return [...(this.#found.get(key)?.values() ?? [])];
  }

  async #run(): Promise<void> {
    const signal = this.#abort.signal;
    let stale = true;
    while (!signal.aborted) {
      this.#lastTurn = this.#clock.now();
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
        // A watch that fails twice in a row starts over: its version may be the reason.
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

  /** Watches from the newest version until the server ends the watch; false: it fell silent or a list is asked for. */
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
    delete object.metadata.managedFields; // large, and who needs them reads the object itself
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
