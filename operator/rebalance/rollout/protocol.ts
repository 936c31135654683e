// The protocol that carries out a plan: per layer waiting -> preparing -> committing -> releasing -> free, or aborted before its first
// commit. Events in, actions out: DECISIONS.md 1.
import {
  type Action,
  type Call,
  type Event,
  type LayerPhase,
  type LayerTask,
  type Outcome,
  type ProtocolRules,
  protocolRules,
  type RunOptions,
  type UnreleasedLayer,
} from "./protocol-types.ts";

interface LayerRun {
  readonly task: LayerTask;
  readonly layer: number;
  phase: LayerPhase;
  readonly ready: Set<number>;
  readonly committed: Set<number>;
  readonly drained: Set<number>;
  readonly released: Set<number>;
  /** Ranks that release expert replicas, or may: what a rank that came meanwhile holds is unknown. */
  readonly givers: Set<number>;
  readonly attempts: Map<number, number>;
  reason: string;
}

interface Line {
  busy: boolean;
  retryAt: number;
}

export class PlanRun {
  readonly epoch: number;
  deadline: number;
  receivedBytes = 0;
  readonly #layers = new Map<number, LayerRun>();
  readonly #members: Map<number, string>;
  readonly #used: Map<number, number>;
  readonly #options: RunOptions;
  readonly #rules: ProtocolRules;
  /** Ranks for which a call may be due. Visiting all ranks at every answer would cost the square of their number. */
  readonly #stirred = new Set<number>();
  #allStirred = true;
  readonly #lines: Readonly<Record<Call, Map<number, Line>>> = { commit: new Map(), drain: new Map(), release: new Map() };
  #now: number;
  #forwardSince: number | undefined;
  #done: Outcome | undefined;

  constructor(options: RunOptions) {
    this.#options = options;
    this.#rules = { ...protocolRules, ...options.rules };
    this.epoch = options.epoch;
    this.#now = options.now;
    this.deadline = options.now + options.limits.prepareMs;
    this.#members = new Map(options.members);
    this.#used = new Map(options.used);
    for (const task of options.tasks) {
      const { layer } = task.placement;
      const phase: LayerPhase = task.committedBefore ? "committing" : "waiting";
      if (task.committedBefore) this.#hold(task, 1);
      this.#layers.set(layer, {
        task,
        layer,
        phase,
        ready: new Set(),
        committed: new Set(),
        drained: new Set(),
        released: new Set(),
        givers: new Set(task.outgoing.keys()),
        attempts: new Map(),
        reason: "",
      });
    }
  }

  get outcome(): Outcome | undefined {
    return this.#done;
  }

  bootOf(rank: number): string | undefined {
    return this.#members.get(rank);
  }

  /** Layers that at least one rank has, or may have, committed. */
  committedLayers(): number[] {
    return this.inPhase("committing", "releasing", "free");
  }

  freeLayers(): number[] {
    return this.inPhase("free");
  }

  get phase(): "Preparing" | "Committing" | "Releasing" {
    if (this.inPhase("waiting", "preparing").length > 0) return "Preparing";
    return this.inPhase("committing").length > 0 ? "Committing" : "Releasing";
  }

  on(event: Event): Action[] {
    if (this.#done) return [];
    const actions: Action[] = [];
    this.#absorb(event, actions);
    if (this.#done) return actions;
    this.#expire(actions);
    this.#admit(actions);
    this.#sendCommits(actions);
    this.#sendReleases(actions);
    this.#stirred.clear();
    this.#allStirred = false;
    this.#settle();
    return actions;
  }

  #absorb(event: Event, actions: Action[]): void {
    if (event.type === "start" || event.type === "tick" || event.type === "joined" || event.type === "lost") this.#allStirred = true;
    else this.#stirred.add(event.rank);
    switch (event.type) {
      case "start":
        for (const run of this.#layers.values()) {
          const absent = [...run.task.incoming.keys()].find((rank) => !this.#members.has(rank));
          if (run.phase === "committing") this.#prepareAgain(run, actions);
          else if (absent !== undefined) this.#abort(run, `rank ${absent} is not there to receive`, actions);
        }
        return;
      case "tick":
        this.#now = Math.max(this.#now, event.now);
        return;
      case "joined":
        this.#onJoined(event.rank, event.bootId, actions);
        return;
      case "lost":
        this.#onLost(event.rank, actions);
        return;
      case "unanswered":
        this.#answered(event.call, event.rank, false);
        return;
      default:
        // An answer of a former process says nothing about the present one.
        if (this.#members.get(event.rank) === event.bootId) this.#onAnswer(event, actions);
    }
  }

  #onAnswer(event: Extract<Event, { bootId: string }>, actions: Action[]): void {
    switch (event.type) {
      case "ready": {
        const run = this.#layers.get(event.layer);
        if (!run || run.ready.has(event.rank)) return;
        run.ready.add(event.rank);
        this.receivedBytes += event.bytes;
        this.#commitIfReady(run);
        return;
      }
      case "failed":
        this.#onFailed(event.rank, event.layer, event.message, actions);
        return;
      case "committed":
        this.#answered("commit", event.rank, event.layers.length === event.asked.length);
        for (const layer of event.layers) this.#layers.get(layer)?.committed.add(event.rank);
        return;
      case "refused":
        if (event.epoch > this.epoch) this.#done = { result: "superseded", epoch: event.epoch, message: event.message };
        else this.#answered("commit", event.rank, false);
        return;
      case "released": {
        this.#answered(event.drainOnly ? "drain" : "release", event.rank, event.layers.length === event.asked.length);
        for (const layer of event.layers) {
          const run = this.#layers.get(layer);
          if (run) this.#addDrained(run, event.rank);
          if (!event.drainOnly) run?.released.add(event.rank);
        }
        return;
      }
      default:
        return;
    }
  }

  /** A receiver could not get its experts: it is asked again, and after some attempts the layer keeps its parent. */
  #onFailed(rank: number, layer: number, message: string, actions: Action[]): void {
    const run = this.#layers.get(layer);
    if (!run || run.ready.has(rank)) return;
    const attempts = (run.attempts.get(rank) ?? 0) + 1;
    run.attempts.set(rank, attempts);
    const open = run.phase === "preparing" || run.phase === "committing";
    // After the first commit a layer only goes forward. A rank that receives nothing blocks nobody, so it just retries.
    const mayGiveUp = run.phase === "preparing" && run.task.incoming.has(rank);
    if (open && !(mayGiveUp && (attempts >= this.#options.limits.attempts || this.#now >= this.deadline))) {
      actions.push({ type: "prepare", rank, layers: [layer], deadline: this.#prepareDeadline() });
      return;
    }
    if (mayGiveUp) this.#abort(run, `rank ${rank}: ${message}`, actions);
  }

  /** A layer commits once every live rank that newly hosts something is ready; others commit when they are ready. */
  #commitIfReady(run: LayerRun): void {
    if (run.phase !== "preparing") return;
    if (this.#rules.mayCommit(this.#receivers(run), run.ready)) this.#enter(run, "committing");
  }

  #enter(run: LayerRun, phase: "committing" | "releasing"): void {
    run.phase = phase;
    this.#allStirred = true;
  }

  #addDrained(run: LayerRun, rank: number): void {
    if (run.drained.has(rank)) return;
    run.drained.add(rank);
    if (run.drained.size >= this.#members.size - 1) this.#allStirred = true;
  }

  #onJoined(rank: number, bootId: string, actions: Action[]): void {
    if (this.#members.get(rank) === bootId) return;
    this.#members.set(rank, bootId);
    for (const lines of Object.values(this.#lines)) lines.delete(rank);
    for (const run of this.#layers.values()) {
      if (run.phase === "free" || run.phase === "aborted") continue;
      run.ready.delete(rank);
      run.attempts.delete(rank);
      run.committed.delete(rank);
      run.drained.delete(rank);
      run.released.delete(rank);
      run.givers.add(rank);
      if (run.phase === "waiting") continue;
      if (run.phase === "releasing") run.phase = "committing"; // A source in an unknown state blocks FREE.
      this.#prepareAgain(run, actions, rank);
    }
  }

  #onLost(rank: number, actions: Action[]): void {
    if (!this.#members.delete(rank)) return;
    for (const lines of Object.values(this.#lines)) lines.delete(rank);
    for (const run of this.#layers.values()) {
      if ((run.phase === "preparing" || run.phase === "waiting") && run.task.incoming.has(rank))
        this.#abort(run, `rank ${rank} was lost before it was ready`, actions);
    }
  }

  #expire(actions: Action[]): void {
    this.deadline = this.#rules.deadline(this.deadline, this.#now, this.#options.limits.prepareMs);
    if (this.#now < this.deadline) return;
    for (const run of this.#layers.values()) {
      if (run.phase !== "preparing" && run.phase !== "waiting") continue;
      const missing = this.#receivers(run).filter((rank) => !run.ready.has(rank));
      this.#abort(run, `not ready within ${this.#options.limits.prepareMs} ms: ranks ${missing.join(", ")}`, actions);
    }
  }

  /** Takes waiting layers into preparation, in order, while their expert replicas fit beside the old ones. */
  #admit(actions: Action[]): void {
    const wanted = new Map<number, number[]>();
    let inFlight = this.inPhase("preparing", "committing", "releasing").length;
    for (const run of this.#layers.values()) {
      if (run.phase !== "waiting") continue;
      if (inFlight >= this.#options.limits.layersInFlight) break;
      if (!this.#fits(run.task)) {
        // Layers wait in an order that works. Others may pass only when none before them is in progress.
        if (inFlight > 0) break;
        continue;
      }
      run.phase = "preparing";
      this.#hold(run.task, 1);
      inFlight++;
      this.#commitIfReady(run);
      for (const rank of this.#members.keys()) wanted.set(rank, [...(wanted.get(rank) ?? []), run.layer]);
    }
    for (const [rank, layers] of wanted) actions.push({ type: "prepare", rank, layers, deadline: this.#prepareDeadline() });
    if (inFlight > 0) return;
    for (const run of this.#layers.values())
      if (run.phase === "waiting") this.#abort(run, "no room for its expert replicas beside the old ones", actions);
  }

  #fits(task: LayerTask): boolean {
    for (const [rank, bytes] of task.incoming) {
      if ((this.#used.get(rank) ?? 0) + bytes > (this.#options.budget.get(rank) ?? Number.POSITIVE_INFINITY) + 1) return false;
    }
    return true;
  }

  #hold(task: LayerTask, sign: number): void {
    for (const [rank, bytes] of task.incoming) this.#used.set(rank, (this.#used.get(rank) ?? 0) + sign * bytes);
  }

  #sendCommits(actions: Action[]): void {
    const open = this.#runsIn("committing");
    for (const rank of this.#toLookAt()) {
      const layers = this.#ask("commit", rank, open, (run) => !run.committed.has(rank) && run.ready.has(rank));
      if (layers.length > 0) actions.push({ type: "commit", rank, layers });
    }
    for (const run of open) if (this.#allIn(run.committed)) this.#enter(run, "releasing");
  }

  #sendReleases(actions: Action[]): void {
    const open = this.#runsIn("releasing");
    for (const rank of this.#toLookAt()) {
      const held = open.filter((run) => !run.released.has(rank));
      const drain = this.#ask("drain", rank, held, (run) => !run.drained.has(rank) && !this.#mayRelease(run, rank));
      if (drain.length > 0) actions.push({ type: "release", rank, layers: drain, drainOnly: true });
      const free = this.#ask("release", rank, held, (run) => this.#mayRelease(run, rank));
      if (free.length > 0) actions.push({ type: "release", rank, layers: free, drainOnly: false });
    }
    for (const run of open) {
      if (!this.#allIn(run.released)) continue;
      run.phase = "free";
      for (const [rank, bytes] of run.task.outgoing) this.#used.set(rank, (this.#used.get(rank) ?? 0) - bytes);
    }
  }

  /** Ranks that release expert replicas come last, once every other source has its frames of the parent answered. */
  #mayRelease(run: LayerRun, rank: number): boolean {
    return this.#rules.mayRelease(run.givers.has(rank), () => this.#allIn(run.drained, rank));
  }

  #allIn(ranks: ReadonlySet<number>, apartFrom?: number): boolean {
    if (ranks.size < this.#members.size - (apartFrom === undefined ? 0 : 1)) return false;
    for (const rank of this.#members.keys()) if (rank !== apartFrom && !ranks.has(rank)) return false;
    return true;
  }

  #toLookAt(): Iterable<number> {
    return this.#allStirred ? this.#members.keys() : [...this.#stirred].filter((rank) => this.#members.has(rank));
  }

  /** Ends the plan when every layer is free or aborted, or when layers that only go forward take too long: DECISIONS.md 2. */
  #settle(): void {
    const late = [...this.#layers.values()].filter((run) => run.phase === "committing" || run.phase === "releasing");
    if (this.inPhase("waiting", "preparing").length > 0) this.#forwardSince = undefined;
    else this.#forwardSince ??= this.#now;
    if (this.#forwardSince === undefined) return;
    if (late.length > 0 && this.#now - this.#forwardSince <= this.#options.limits.releaseMs) return;
    const aborted = [...this.#layers.values()]
      .filter((run) => run.phase === "aborted")
      .map((run) => ({ layer: run.layer, reason: run.reason }));
    const nothing = aborted.length === this.#layers.size && aborted.length > 0;
    this.#done = nothing
      ? { result: "aborted", aborted }
      : { result: "committed", aborted, unreleased: late.map((run) => this.#unreleased(run)) };
  }

  #unreleased(run: LayerRun): UnreleasedLayer {
    const without = (ranks: ReadonlySet<number>): number[] => [...this.#members.keys()].filter((rank) => !ranks.has(rank));
    const [ranks, word] =
      run.phase === "committing"
        ? [without(run.committed), "committed"]
        : without(run.drained).length > 0
          ? [without(run.drained), "drained"]
          : [without(run.released), "released"];
    return { layer: run.layer, reason: `ranks ${ranks.join(", ")} have not ${word} it` };
  }

  #abort(run: LayerRun, reason: string, actions: Action[]): void {
    if (run.phase === "preparing") {
      this.#hold(run.task, -1);
      for (const rank of this.#members.keys()) actions.push({ type: "abort", rank, layers: [run.layer] });
    }
    run.phase = "aborted";
    run.reason = reason;
  }

  #prepareAgain(run: LayerRun, actions: Action[], only?: number): void {
    for (const rank of this.#members.keys()) {
      if (run.ready.has(rank) || (only !== undefined && rank !== only)) continue;
      actions.push({ type: "prepare", rank, layers: [run.layer], deadline: this.#prepareDeadline() });
    }
  }

  #prepareDeadline(): number {
    return Math.max(this.deadline, this.#now + this.#options.limits.catchUpMs);
  }

  #receivers(run: LayerRun): number[] {
    return [...run.task.incoming.keys()].filter((rank) => this.#members.has(rank));
  }

  /** The layers to call a rank for now, none during a call; the rank then counts as called. */
  #ask(call: Call, rank: number, open: readonly LayerRun[], due: (run: LayerRun) => boolean): number[] {
    const line = this.#lines[call].get(rank);
    if (line && (line.busy || this.#now < line.retryAt)) return [];
    const layers = open.filter(due).map((run) => run.layer);
    if (layers.length > 0) this.#lines[call].set(rank, { busy: true, retryAt: 0 });
    return layers;
  }

  /** A call has returned; layers that it left are asked for again after a pause. */
  #answered(call: Call, rank: number, whole: boolean): void {
    this.#lines[call].set(rank, { busy: false, retryAt: whole ? 0 : this.#now + this.#options.limits.retryMs });
  }

  inPhase(...phases: LayerPhase[]): number[] {
    return this.#runsIn(...phases).map((run) => run.layer);
  }

  #runsIn(...phases: LayerPhase[]): LayerRun[] {
    return [...this.#layers.values()].filter((run) => phases.includes(run.phase));
  }
}
