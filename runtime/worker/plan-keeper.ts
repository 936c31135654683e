// Carries out the operator's plan steps on engine, memory and routing; plan-state.ts has the rules.
import { AppError } from "../../crds/common.ts";
import type { LayerPlacement, PlacementPlan } from "../../crds/plan.ts";
import type { Engine } from "../engine/engine.ts";
import type { LoadRequest, Materializer } from "../experts/memory/materializer.ts";
import type { Peers } from "../experts/peers.ts";
import type { Log } from "../observe/log.ts";
import type { Metrics } from "../observe/runtime-metrics.ts";
import { addFetched, type Fetched } from "../placement/cost.ts";
import { ExpertReplicasThatGaveWay } from "./give-way.ts";
import { NearRouting } from "./near-routing.ts";
import type { PlannedLoad, PlanState } from "./plan-state.ts";

/** The materializer bounds loads. */
const asksAtOnce = 4;
/** Milliseconds; afterwards Release reports what is pending. */
const drainWaitMs = 250;
const prepareDefaultMs = 60_000;
/** Milliseconds after the drain, since an adopted plan may get no Release. */
const adoptedFreeMs = 5_000;
const loadRetryMs = 1_000;

export type PrepareOutcome =
  | {
      readonly type: "ready";
      readonly layer: number;
      readonly bytes: number;
      readonly fetched: readonly Fetched[];
    }
  | { readonly type: "failed"; readonly layer: number; readonly error: AppError };

/** Several may run: a new leader continues the same epoch. */
interface PrepareCall {
  readonly epoch: number;
  readonly abort: AbortController;
}

interface OpenLayer {
  readonly placement: LayerPlacement;
  left: number;
  bytes: number;
  readonly fetched: Map<Fetched["source"], Fetched>;
  error: AppError | undefined;
}

export interface PlanKeeperOptions {
  readonly state: PlanState;
  readonly engine: Pick<Engine, "setRouting" | "setDown">;
  readonly materializer: Materializer;
  /** Planned experts for which memory has no room stay on the disk. */
  readonly oversubscribed?: boolean;
  readonly peers: Pick<Peers, "self" | "membership" | "onChange" | "down" | "member" | "usable">;
  readonly layers: number;
  readonly metrics: Pick<Metrics<"worker">, "add">;
  readonly log: Log;
  readonly onChange: () => void;
}

/** Unset = the default time and no limit. */
interface PrepareLimits {
  readonly withinMs?: number | undefined;
  readonly bytesPerSecond?: number;
  readonly left?: AbortSignal;
}

export class PlanKeeper {
  readonly state: PlanState;
  readonly giveWay: ExpertReplicasThatGaveWay;
  readonly #options: PlanKeeperOptions;
  readonly #calls = new Set<PrepareCall>();
  /** The call that last took a layer; no other may fail it. */
  readonly #preparers = new Map<number, PrepareCall>();
  readonly #named = new Set<number>();
  readonly #stopping = new AbortController();
  readonly #near: NearRouting;
  #loading = false;
  #loadAgain = false;
  #warm = false;
  #loadProblem = "";

  constructor(options: PlanKeeperOptions) {
    this.state = options.state;
    this.#options = options;
    const { state, peers, log } = options;
    const { residents } = options.materializer;
    this.giveWay = new ExpertReplicasThatGaveWay({ state, peers, residents, log, comeBack: () => void this.#loadMissing() });
    this.#near = new NearRouting(peers);
    options.peers.onChange(() => {
      void (this.#near.changed() ? this.#route(Array.from({ length: options.layers }, (_, layer) => layer)) : this.#mask());
      if (this.giveWay.count > 0) void this.#loadMissing();
    });
  }

  notReady(): string | undefined {
    if (!this.state.complete) return "no plan yet: neither the operator nor a peer has sent one";
    if (this.#warm) return undefined;
    return this.#loadProblem === "" ? "loading the experts of the plan" : `loading the experts of the plan: ${this.#loadProblem}`;
  }

  /** Reports each layer. When the caller has `left`, loaded experts stay for the next Prepare. */
  async prepare(plan: PlacementPlan, limits: PrepareLimits, report: (outcome: PrepareOutcome) => void): Promise<void> {
    const { withinMs = prepareDefaultMs, bytesPerSecond = 0, left } = limits;
    const { start, done } = this.state.prepare(plan);
    for (const layer of done) report({ type: "ready", layer, bytes: 0, fetched: [] });
    const { call, end } = this.#begin(plan.epoch, start, withinMs, left);
    const queue = this.state.loads(start);
    const open = new Map(start.map((placement) => [placement.layer, openLayer(placement, queue)]));
    const work = async () => {
      for (let load = queue.shift(); load !== undefined; load = queue.shift()) {
        const layer = open.get(load.layer) as OpenLayer;
        if (await this.#load(load, layer, bytesPerSecond, call.abort.signal)) report(await this.#prepared(layer, call));
      }
    };
    try {
      for (const layer of open.values()) if (layer.left === 0) report(await this.#prepared(layer, call));
      await Promise.all(Array.from({ length: Math.min(asksAtOnce, queue.length) }, work));
    } finally {
      end();
    }
  }

  #begin(epoch: number, layers: readonly LayerPlacement[], withinMs: number, left: AbortSignal | undefined) {
    for (const older of this.#calls) if (older.epoch < epoch) older.abort.abort(aborted(older.epoch));
    const call: PrepareCall = { epoch, abort: new AbortController() };
    this.#calls.add(call);
    for (const { layer } of layers) this.#preparers.set(layer, call);
    const late = setTimeout(() => {
      call.abort.abort(new AppError(`epoch ${epoch} was not prepared by its deadline`, { code: "DeadlineExceeded", retry: "backoff" }));
    }, withinMs);
    const leave = () => {
      for (const [layer, preparer] of this.#preparers) if (preparer === call) this.#preparers.delete(layer);
      call.abort.abort(aborted(epoch));
    };
    if (left?.aborted) leave();
    left?.addEventListener("abort", leave, { once: true });
    const end = () => {
      clearTimeout(late);
      left?.removeEventListener("abort", leave);
      this.#calls.delete(call);
    };
    return { call, end };
  }

  /** True for the layer's last load. After a failure no other starts. */
  async #load({ layer, expert, sources }: PlannedLoad, open: OpenLayer, bytesPerSecond: number, signal: AbortSignal): Promise<boolean> {
    try {
      if (open.error === undefined) {
        const wanted = () => this.state.wanted(layer).has(expert);
        const onFetched = (fetched: Fetched) => addFetched(open.fetched, fetched);
        const { materializer, oversubscribed: mayStayOnDisk = false } = this.#options;
        const request = { layer, expert, kind: "planned", sources, bytesPerSecond, signal, wanted, onFetched, mayStayOnDisk } as const;
        const got = await materializer.ensure(request);
        open.bytes += got;
      }
    } catch (caught) {
      open.error ??= AppError.from(caught, `preparing layer ${layer}`);
    }
    open.left -= 1;
    return open.left === 0;
  }

  async #prepared({ placement, bytes, fetched, error }: OpenLayer, call: PrepareCall): Promise<PrepareOutcome> {
    const { materializer, metrics } = this.#options;
    const { layer, epoch } = placement;
    const failure = error ?? (this.state.ready(layer, epoch) ? undefined : aborted(epoch));
    if (failure === undefined) {
      metrics.add("enodia_plan_prepares_total", 1, { result: "ready" });
      return { type: "ready", layer, bytes, fetched: [...fetched.values()] };
    }
    if (this.#preparers.get(layer) === call) this.state.failed(layer, epoch);
    await materializer.retain(layer, this.state.wanted(layer));
    metrics.add("enodia_plan_prepares_total", 1, { result: failure.code === "Aborted" ? "aborted" : "failed" });
    return { type: "failed", layer, error: failure };
  }

  async commit(plan: PlacementPlan): Promise<{ readonly committed: number[]; readonly refused: string }> {
    const { metrics, log, onChange } = this.#options;
    const before = new Map(plan.layers.map(({ layer }) => [layer, this.state.current(layer)?.epoch ?? 0]));
    const epochBefore = this.state.epoch;
    const result = this.state.commit(plan);
    metrics.add("enodia_plan_commits_total", 1, { result: result.refused === "" ? "committed" : "refused" });
    const fresh = result.committed.filter((layer) => before.get(layer) !== plan.epoch);
    if (fresh.length > 0) {
      // A plan commits in many parts; only the first is worth a line.
      const level = epochBefore < plan.epoch ? "info" : "debug";
      log[level]({ epoch: plan.epoch, layers: fresh.length }, "plan committed");
      await this.#install(fresh);
      onChange();
    }
    return result;
  }

  async adopt(plan: PlacementPlan): Promise<boolean> {
    const changed = this.state.adopt(plan);
    if (changed.length === 0) return false;
    this.#options.log.info({ epoch: plan.epoch, layers: changed.length }, "plan adopted");
    await this.#install(changed);
    const adopted = plan.layers.filter(({ layer }) => changed.includes(layer));
    setTimeout(() => void this.#freeAdopted(adopted), adoptedFreeMs).unref();
    this.#options.onChange();
    return true;
  }

  async abort(epoch: number, layers: readonly number[]): Promise<void> {
    const { materializer, metrics } = this.#options;
    const given = this.state.abort(epoch, layers);
    if (layers.length === 0) for (const call of this.#calls) if (call.epoch === epoch) call.abort.abort(aborted(epoch));
    for (const layer of given) await materializer.retain(layer, this.state.wanted(layer));
    if (given.length > 0) metrics.add("enodia_plan_rollbacks_total", given.length);
  }

  /** `drainOnly` frees nothing. */
  async release(epoch: number, layers: readonly number[], drainOnly = false): Promise<{ released: number[]; pending: number[] }> {
    const { released, pending } = this.state.release(epoch, layers, drainOnly);
    if (drainOnly) return { released, pending };
    for (const layer of released) await this.#options.materializer.retain(layer, this.state.wanted(layer));
    if (released.length > 0) this.#options.onChange();
    return { released, pending };
  }

  async #freeAdopted(adopted: readonly LayerPlacement[]): Promise<void> {
    if (this.#stopping.signal.aborted) return;
    try {
      for (const { layer, epoch } of adopted) {
        if (this.state.current(layer)?.epoch === epoch && this.state.phase(layer) === "drained") await this.release(epoch, [layer]);
      }
    } catch (err) {
      this.#options.log.error({ err }, "expert replicas of the plan before could not be freed");
    }
  }

  close(): void {
    this.#stopping.abort(aborted(0));
    this.giveWay.close();
    for (const { abort } of this.#calls) abort.abort(aborted(0));
  }

  async #install(layers: readonly number[]): Promise<void> {
    const routed = this.#route(layers);
    const drained = Promise.all(layers.map((layer) => this.#drain(layer, routed)));
    void this.#loadMissing();
    this.#options.onChange(); // the drain may take its time: peers and connections hear of the new epochs before it
    await Promise.race([drained, new Promise((resolve) => setTimeout(resolve, drainWaitMs).unref())]);
  }

  async #drain(layer: number, routed: Promise<void>): Promise<void> {
    const epoch = this.state.current(layer)?.epoch ?? 0;
    await routed;
    if (this.state.current(layer)?.epoch === epoch) this.state.drained(layer);
  }

  async #route(changed: readonly number[]): Promise<void> {
    const { engine, peers, log } = this.#options;
    const layers = changed.flatMap((layer) => this.state.current(layer) ?? []);
    for (const { hosts } of layers) for (const row of hosts) for (const rank of row) this.#named.add(rank);
    try {
      await this.#mask();
      await engine.setRouting({ rank: peers.self.rank, layers: this.#near.tables(layers) });
    } catch (err) {
      log.error({ err }, "the engine did not take its routing tables");
    }
  }

  /** Masks lost, suspect or unknown hosts. */
  async #mask(): Promise<void> {
    const { engine, peers, log } = this.#options;
    try {
      await engine.setDown([...peers.down(this.#named)]);
    } catch (err) {
      log.error({ err }, "the engine did not take the ranks that are down");
    }
  }

  async #loadMissing(): Promise<void> {
    this.#loadAgain = true;
    if (this.#loading) return;
    this.#loading = true;
    try {
      while (this.#loadAgain && !this.#stopping.signal.aborted) {
        this.#loadAgain = false;
        const failed = await this.#loadOnce();
        this.#loadProblem = failed?.message ?? "";
        if (failed === undefined) this.#warm ||= this.state.complete;
        else {
          this.#options.log.warn({ err: failed }, "some planned experts could not be loaded; trying again");
          await new Promise((resolve) => setTimeout(resolve, loadRetryMs));
          this.#loadAgain = true;
        }
        this.#options.onChange();
      }
    } finally {
      this.#loading = false;
    }
  }

  async #loadOnce(): Promise<AppError | undefined> {
    const { materializer, layers } = this.#options;
    const { residents } = materializer;
    const missing: { layer: number; expert: number }[] = [];
    for (let layer = 0; layer < layers; layer++) {
      for (const expert of this.state.planned(layer)) {
        if (this.giveWay.isAway(layer, expert)) continue;
        if (!residents.isResident({ layer, expert })) missing.push({ layer, expert });
        else residents.admit({ layer, expert }, "planned");
      }
    }
    let failed: AppError | undefined;
    const work = async () => {
      for (let next = missing.shift(); next !== undefined; next = missing.shift()) {
        const { layer, expert } = next;
        const request: LoadRequest = {
          layer,
          expert,
          kind: "planned",
          sources: this.state.sources(layer, expert),
          bytesPerSecond: 0,
          signal: this.#stopping.signal,
          wanted: () => this.state.planned(layer).includes(expert),
          onFull: () => this.#full(),
          mayStayOnDisk: this.#options.oversubscribed ?? false,
        };
        await materializer.ensure(request).catch((caught) => {
          const error = AppError.from(caught);
          if (error.code !== "Aborted") failed = error; // otherwise the plan changed meanwhile
        });
      }
    };
    await Promise.all(Array.from({ length: asksAtOnce }, work));
    return failed;
  }

  #full(): void {
    const { materializer, log, onChange } = this.#options;
    const { count } = materializer.residents;
    const problem = `memory is full: ${count} experts fit, and all here are planned or in use`;
    if (this.#loadProblem === problem) return;
    this.#loadProblem = problem;
    log.warn({ experts: count }, "a planned expert waits: memory is full");
    onChange();
  }
}

function openLayer(placement: LayerPlacement, loads: readonly PlannedLoad[]): OpenLayer {
  const left = loads.filter(({ layer }) => layer === placement.layer).length;
  return { placement, left, bytes: 0, fetched: new Map(), error: undefined };
}

function aborted(epoch: number): AppError {
  return new AppError(`epoch ${epoch} was aborted`, { code: "Aborted", operation: "preparing a plan" });
}
