// A local copy of one resource that follows the API server: list, then watch with bookmarks; restarts with jittered back-off
// after any error, relists on 410, and knows how long it has heard nothing. Consumers get keys, never deltas.

import { hasCode } from "./errors.ts";
import type { Kube, KubeObject, ListOptions, Ref, Resource } from "./kube.ts";
import { keyOf, refOf } from "./kube.ts";
import { type Clock, systemClock } from "./workqueue.ts";

const restartBaseMs = 250;
const restartMaxMs = 20_000;

export interface InformerDeps {
  readonly kube: Pick<Kube, "list" | "watch">;
  readonly clock?: Clock;
  readonly random?: () => number;
  /** Told about every failed list or watch. */
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

  /** Milliseconds since the server last sent anything, bookmarks included. */
  get silentMs(): number {
    return this.#lastEvent === 0 ? 0 : this.#clock.now() - this.#lastEvent;
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
    let version: string | undefined;
    let failures = 0;
    while (!signal.aborted) {
      try {
        version ??= await this.#relist();
        version = await this.#follow(version, () => {
          failures = 0;
        });
      } catch (error) {
        if (signal.aborted) return;
        if (hasCode(error, "Expired")) version = undefined;
        else this.#deps.onError?.(error);
        failures += 1;
        // A watch that fails twice in a row starts over: its version may be the reason.
        if (failures > 1) version = undefined;
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

  async #relist(): Promise<string> {
    const { items, resourceVersion } = await this.#deps.kube.list(this.resource, this.#options);
    this.#lastEvent = this.#clock.now();
    const seen = new Set<string>();
    for (const item of items) {
      seen.add(keyOf(refOf(item)));
      this.#set(item);
    }
    for (const [key, object] of [...this.#store]) if (!seen.has(key)) this.#remove(key, object);
    this.#synced = true;
    return resourceVersion;
  }

  /** Watches until the server ends the watch; returns the version to go on from. */
  async #follow(from: string, alive: () => void): Promise<string> {
    let version = from;
    for await (const event of this.#deps.kube.watch(this.resource, {
      ...this.#options,
      resourceVersion: from,
      signal: this.#abort.signal,
    })) {
      alive();
      this.#lastEvent = this.#clock.now();
      if (event.type === "BOOKMARK") {
        version = event.resourceVersion;
        continue;
      }
      version = event.object.metadata.resourceVersion ?? version;
      if (event.type === "DELETED") this.#remove(keyOf(refOf(event.object)), event.object);
      else this.#set(event.object);
    }
    return version;
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
