// A local copy of one resource that follows the API server: list, then watch with bookmarks; restarts with jittered back-off
// after any error, lists again on 410 and after silence, and knows how far it has heard. Consumers get keys, never deltas.

import { AppError } from "../../crds/common.ts";
import { hasCode } from "./errors.ts";
import type { Kube, KubeObject, ListOptions, Ref, Resource, WatchEvent } from "./kube.ts";
import { keyOf, refOf } from "./kube.ts";
import { type Clock, systemClock } from "./workqueue.ts";

const restartBaseMs = 250;
const restartMaxMs = 20_000;
/** Bookmarks come about every minute: a watch that is silent for longer hangs on a dead connection. */
const silenceMaxMs = 120_000;
/** A watch that ends sooner without a word has failed, whatever the server calls it. */
const shortWatchMs = 1_000;

export interface InformerDeps {
  readonly kube: Pick<Kube, "list" | "watch">;
  readonly clock?: Clock;
  readonly random?: () => number;
  /** Called with every failed list or watch. */
  readonly onError?: (error: unknown) => void;
}

export type Listener = (object: KubeObject, change: "set" | "delete") => void;

export class Informer {
  readonly resource: Resource;
  readonly #options: ListOptions;
  readonly #deps: InformerDeps;
  readonly #clock: Clock;
  readonly #store = new Map<string, KubeObject>();
  readonly #listeners: Listener[] = [];
  readonly #abort = new AbortController();
  #synced = false;
  #lastEvent = 0;
  #version = "";
  #running: Promise<void> | undefined;

  constructor(resource: Resource, options: ListOptions, deps: InformerDeps) {
    this.resource = resource;
    this.#options = options;
    this.#deps = deps;
    this.#clock = deps.clock ?? systemClock;
  }

  onChange(listener: Listener): void {
    this.#listeners.push(listener);
  }

  start(): void {
    this.#lastEvent = this.#clock.now();
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

  /** The newest resourceVersion heard: every write up to it is in the copy. Empty before the first list. */
  get version(): string {
    return this.#version;
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

  async #run(): Promise<void> {
    const signal = this.#abort.signal;
    let stale = true;
    let failures = 0;
    while (!signal.aborted) {
      try {
        if (stale) await this.#relist();
        stale = false;
        stale = !(await this.#follow(() => {
          failures = 0;
        }));
      } catch (error) {
        if (signal.aborted) return;
        const expired = hasCode(error, "Expired");
        if (!expired) this.#deps.onError?.(error);
        failures += 1;
        // A watch that fails twice in a row starts over: its version may be the reason.
        stale ||= expired || failures > 1;
        await this.#pause(failures);
      }
    }
  }

  async #pause(failures: number): Promise<void> {
    const ceiling = Math.min(restartBaseMs * 2 ** Math.min(failures, 10), restartMaxMs);
    const ms = ceiling * (0.5 + 0.5 * (this.#deps.random ?? Math.random)());
    await new Promise<void>((resolve) => {
      const cancel = this.#clock.after(ms, done);
      const signal = this.#abort.signal;
      signal.addEventListener("abort", done, { once: true });
      function done() {
        cancel();
        signal.removeEventListener("abort", done);
        resolve();
      }
    });
  }

  async #relist(): Promise<void> {
    const { items, resourceVersion } = await this.#deps.kube.list(this.resource, this.#options);
    this.#lastEvent = this.#clock.now();
    const seen = new Set<string>();
    for (const item of items) {
      seen.add(keyOf(refOf(item)));
      this.#set(item);
    }
    for (const [key, object] of [...this.#store]) if (!seen.has(key)) this.#remove(key, object);
    this.#synced = true;
    this.#version = resourceVersion;
  }

  /** Watches from the newest version until the server ends the watch; false: it fell silent, and the copy may be stale. */
  async #follow(alive: () => void): Promise<boolean> {
    const began = this.#clock.now();
    const silence = new AbortController();
    const listen = () => this.#clock.after(silenceMaxMs, () => silence.abort());
    let stopListening = listen();
    let heard = false;
    const signal = AbortSignal.any([this.#abort.signal, silence.signal]);
    try {
      for await (const event of this.#deps.kube.watch(this.resource, { ...this.#options, resourceVersion: this.#version, signal })) {
        heard = true;
        stopListening();
        stopListening = listen();
        alive();
        this.#take(event);
      }
    } catch (error) {
      if (!silence.signal.aborted) throw error;
    } finally {
      stopListening();
    }
    if (silence.signal.aborted) return false;
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
    delete object.metadata.managedFields; // large, and nobody here reads them
    const key = keyOf(refOf(object));
    const before = this.#store.get(key);
    if (before?.metadata.resourceVersion === object.metadata.resourceVersion && before?.metadata.uid === object.metadata.uid) return;
    this.#store.set(key, object);
    for (const listener of this.#listeners) listener(object, "set");
  }

  #remove(key: string, object: KubeObject): void {
    if (!this.#store.delete(key)) return;
    for (const listener of this.#listeners) listener(object, "delete");
  }
}
