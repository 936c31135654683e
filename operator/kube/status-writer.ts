// The writer of the status of a kind: it writes when there is something new to say, or when the object does not say what was written last, and
// records the events that go with the change. What it wrote last counts until the cache shows it.
import { isDeepStrictEqual } from "node:util";
import { apiVersion } from "../../crds/common.ts";
import { type Condition, type ConditionState, withTransition } from "../../crds/conditions.ts";
import type { OwnerKind } from "./adoption.ts";
import type { Kube, KubeObject, Ref } from "./kube.ts";

const manager = "enodia-operator-status";
/** A status that somebody else keeps changing is put right at most this often. */
const mendIntervalMs = 1_000;

interface AnyStatus {
  readonly conditions?: readonly Condition[] | undefined;
}

export interface StatusEvent {
  readonly type: "Normal" | "Warning";
  readonly reason: string;
  readonly note: string;
}

/** What differs between kinds. */
export interface StatusKind<S extends AnyStatus> {
  readonly of: Pick<OwnerKind, "kind" | "resource">;
  /** Undefined where it cannot be read. */
  read(status: unknown): S | undefined;
  /** The status without texts and figures, which alone are written no more often than `softMs`. */
  hard(status: S): unknown;
  softMs(status: S): number;
  events(before: S, after: S): readonly StatusEvent[];
}

interface Subject {
  readonly metadata: Ref & { readonly uid: string };
}

export interface StatusWriterOptions {
  readonly kube: Pick<Kube, "applyStatus">;
  readonly event: (subject: Subject, type: StatusEvent["type"], reason: string, note: string) => void;
  /** The object as the informers have it, to put a status right that others have changed; nothing is put right without. */
  readonly live?: (ref: Ref) => KubeObject | undefined;
  readonly now: () => Date;
  /** Milliseconds for ages alone. */
  readonly ticks: () => number;
}

interface Written<S> {
  readonly status: S;
  /** The status that the API server answered with: ours, and what others own in it. */
  readonly answer: S | undefined;
  readonly version: string;
  readonly at: number;
}

export class StatusWriter<S extends AnyStatus> {
  readonly #kind: StatusKind<S>;
  readonly #options: StatusWriterOptions;
  readonly #written = new Map<string, Written<S>>();
  /** What is being written; its event may come before its answer. */
  readonly #pending = new Map<string, S>();

  constructor(kind: StatusKind<S>, options: StatusWriterOptions) {
    this.#kind = kind;
    this.#options = options;
  }

  /** Returns the milliseconds after which a held-back write is due. */
  async write(subject: Subject & { readonly status: S }, status: S): Promise<number | undefined> {
    const { uid } = subject.metadata;
    const last = this.#written.get(uid);
    const known = last?.status ?? subject.status;
    const age = this.#options.ticks() - (last?.at ?? Number.NEGATIVE_INFINITY);
    if (this.#disturbed(subject.metadata)) {
      if (age < mendIntervalMs) return mendIntervalMs - age;
    } else {
      if (same(known, status)) return undefined;
      const softMs = this.#kind.softMs(status);
      if (age < softMs && same(this.#kind.hard(known), this.#kind.hard(status))) return softMs - age;
    }
    await this.#apply(subject.metadata, status);
    for (const { type, reason, note } of this.#kind.events(known, status)) this.#options.event(subject, type, reason, note);
    return undefined;
  }

  /** Writes the status of an object that cannot be read: one condition says so, the rest stays as it is, if that can be read. */
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

  /** The status that was written last, which the cache may not show yet. */
  latest({ metadata, status }: Subject & { readonly status: S }): S {
    return this.#written.get(metadata.uid)?.status ?? status;
  }

  /** True when the status of this object is the one that we wrote, or are writing. */
  wrote({ metadata, status }: KubeObject): boolean {
    const { uid = "", resourceVersion } = metadata;
    if (this.#written.get(uid)?.version === resourceVersion) return true;
    const pending = this.#pending.get(uid);
    return pending !== undefined && same(this.#kind.read(status), pending);
  }

  /** True when the cache is as new as our last write and shows another status: a forged one, or a late write of a former leader. */
  #disturbed({ uid, name, namespace }: Subject["metadata"]): boolean {
    const last = this.#written.get(uid);
    const live = this.#options.live?.({ namespace, name });
    if (!last || live?.metadata.uid !== uid || isOlder(live.metadata.resourceVersion, last.version)) return false;
    return !same(this.#kind.read(live.status), last.answer);
  }

  async #apply(metadata: Subject["metadata"], status: S): Promise<void> {
    const { uid } = metadata;
    const { kind, resource } = this.#kind.of;
    this.#pending.set(uid, status);
    try {
      const object = { apiVersion, kind, metadata: { name: metadata.name, namespace: metadata.namespace, uid }, status };
      const answer = await this.#options.kube.applyStatus(resource, object, { manager });
      const version = answer.metadata.resourceVersion ?? "";
      this.#written.set(uid, { status, answer: this.#kind.read(answer.status), version, at: this.#options.ticks() });
    } finally {
      this.#pending.delete(uid);
    }
  }
}

/** True when both read the same as JSON, in which a field without a value is none. */
function same(a: unknown, b: unknown): boolean {
  return isDeepStrictEqual(plain(a), plain(b));
}

const plain = (value: unknown): unknown => (value === undefined ? undefined : JSON.parse(JSON.stringify(value)));

/** The order of versions, where they are numbers; else nothing is known to be older. */
function isOlder(version: string | undefined, than: string): boolean {
  const whole = /^\d+$/;
  return whole.test(version ?? "") && whole.test(than) && BigInt(version ?? "") < BigInt(than);
}
