// Writes a status that has changed, or that somebody else changed, and its events. The last write counts until the cache shows it.
import { isDeepStrictEqual } from "node:util";
import { AppError, apiVersion } from "../../crds/common.ts";
import { type Condition, type ConditionState, withTransition } from "../../crds/conditions.ts";
import type { Kube, KubeObject, Ref, Resource } from "./kube.ts";

const ownManager = "enodia-operator-status";
/** Interval of corrections of a foreign change. */
const mendIntervalMs = 1_000;

interface AnyStatus {
  readonly conditions?: readonly Condition[] | undefined;
}

export interface StatusEvent {
  readonly type: "Normal" | "Warning";
  readonly reason: string;
  readonly note: string;
}

export interface StatusKind<S> {
  readonly resource: Resource;
  /** Another field manager would leave behind what this one has written. */
  readonly manager?: string;
  read(status: unknown): S | undefined;
  /** The status less texts and figures, which are written at most every `softMs`. */
  hard(status: S): unknown;
  softMs(status: S, before: S): number;
  /** Whether an unchanged status is written every `softMs`, too. */
  readonly repeats?: true;
  events(before: S, after: S): readonly StatusEvent[];
}

interface Subject {
  readonly metadata: Ref & { readonly uid: string };
}

export interface StatusWriterOptions {
  readonly kube: Pick<Kube, "applyStatus">;
  readonly event: (subject: Subject, type: StatusEvent["type"], reason: string, note: string) => void;
  /** If unset, foreign changes are not corrected. */
  readonly live?: (ref: Ref) => KubeObject | undefined;
  readonly now: () => Date;
  readonly ticks: () => number;
}

interface Written<S> {
  readonly status: S;
  readonly answer: S | undefined;
  readonly version: string;
  readonly at: number;
}

export class StatusWriter<S extends object> {
  readonly #kind: StatusKind<S>;
  readonly #options: StatusWriterOptions;
  readonly #written = new Map<string, Written<S>>();
  /** Writes under way; their event may come before their answer. */
  readonly #pending = new Map<string, S>();

  constructor(kind: StatusKind<S>, options: StatusWriterOptions) {
    this.#kind = kind;
    this.#options = options;
  }

  async write(subject: Subject & { readonly status: S }, status: S): Promise<number | undefined> {
    const { uid } = subject.metadata;
    const last = this.#written.get(uid);
    const known = last?.status ?? subject.status;
    const age = this.#options.ticks() - (last?.at ?? Number.NEGATIVE_INFINITY);
    if (this.#disturbed(subject.metadata)) {
      if (age < mendIntervalMs) return mendIntervalMs - age;
    } else {
      if (!this.#kind.repeats && same(known, status)) return undefined;
      const softMs = this.#kind.softMs(status, known);
      if (age < softMs && same(this.#kind.hard(known), this.#kind.hard(status))) return softMs - age;
    }
    await this.#apply(subject.metadata, status);
    for (const { type, reason, note } of this.#kind.events(known, status)) this.#options.event(subject, type, reason, note);
    return undefined;
  }

  /** Reports an unreadable object in one condition and leaves the rest of the status. */
  async refuse(object: KubeObject, next: ConditionState): Promise<void> {
    const { uid = "", name, namespace = "" } = object.metadata;
    const live = this.#kind.read(object.status);
    const old: AnyStatus = this.#written.get(uid)?.status ?? live ?? {};
    const before = old.conditions ?? [];
    const changed = withTransition(before, next, this.#options.now());
    const status: AnyStatus = { ...old, conditions: [...before.filter(({ type }) => type !== next.type), changed] };
    if (live && same(live, status)) return;
    await this.#apply({ uid, name, namespace }, status as S);
    this.#written.delete(uid);
  }

  forget(uid: string): void {
    this.#written.delete(uid);
  }

  latest({ metadata, status }: Subject & { readonly status: S }): S {
    return this.#written.get(metadata.uid)?.status ?? status;
  }

  /** The object is at least as new as our last write of its status. */
  covers({ metadata: { uid = "", resourceVersion } }: KubeObject): boolean {
    const last = this.#written.get(uid);
    return !last || !isOlder(resourceVersion, last.version);
  }

  /** The object's status is the one that we wrote, or are writing. */
  wrote({ metadata, status }: KubeObject): boolean {
    const { uid = "", resourceVersion } = metadata;
    if (this.#written.get(uid)?.version === resourceVersion) return true;
    const pending = this.#pending.get(uid);
    return pending !== undefined && same(this.#kind.read(status), pending);
  }

  /** The cache is as new as our last write and shows another status. */
  #disturbed({ uid, name, namespace }: Subject["metadata"]): boolean {
    const last = this.#written.get(uid);
    const live = this.#options.live?.({ namespace, name });
    if (!last || live?.metadata.uid !== uid || isOlder(live.metadata.resourceVersion, last.version)) return false;
    return !same(this.#kind.read(live.status), last.answer);
  }

  async #apply(metadata: Subject["metadata"], status: S): Promise<void> {
    const { uid } = metadata;
    const { resource, manager = ownManager } = this.#kind;
    this.#pending.set(uid, status);
    try {
      const object = { apiVersion, kind: resource.kind, metadata: { name: metadata.name, namespace: metadata.namespace, uid }, status };
      const answer = await this.#options.kube.applyStatus(resource, object, { manager });
      // The API server compares no uid in a status: an object made anew has got the status of the former one.
      if ((answer.metadata.uid ?? uid) !== uid)
        throw new AppError(`${metadata.name} is another object now`, { code: "Conflict", operation: "writing a status", retry: "backoff" });
      const version = answer.metadata.resourceVersion ?? "";
      this.#written.set(uid, { status, answer: this.#kind.read(answer.status), version, at: this.#options.ticks() });
    } finally {
      this.#pending.delete(uid);
    }
  }
}

function same(a: unknown, b: unknown): boolean {
  return isDeepStrictEqual(plain(a), plain(b));
}

const plain = (value: unknown): unknown => (value === undefined ? undefined : JSON.parse(JSON.stringify(value)));

/** False where versions are not numbers. */
function isOlder(version: string | undefined, than: string): boolean {
  const whole = /^\d+$/;
  return whole.test(version ?? "") && whole.test(than) && BigInt(version ?? "") < BigInt(than);
}
