// A training pod's way from world to world: it waits for one with a place for it, trains there over the wire, and where that world ends
// without a fault of its own it goes on in the next one from the state that it has. Told to end, it hands that state on in a world without
// it. A failure of its own, or the end of all steps, ends it.
import { AppError } from "../../../crds/common.ts";
import type { TrainerSettings } from "../../../crds/training-process.ts";
import { trainingScope, type WorldMember } from "../../../crds/training-world.ts";
import { WireTransport } from "../../net/collectives/wire.ts";
import { otherRankCodes } from "../../net/collectives/wire-owner.ts";
import type { TlsSource } from "../../net/tls.ts";
import type { Log } from "../../observe/log.ts";
import type { RunEnd, train } from "../loop/run.ts";
import type { TrainPorts } from "../loop/train-ports.ts";
import { aloneContext, type RankContext } from "../ranks/rank-context.ts";
import { RankState } from "../ranks/rank-state.ts";
import { placedIn } from "./job-settings.ts";
import { leaves, type Membership, type Place } from "./membership.ts";
import { type StepTimeout, stuckCode } from "./step-timeout.ts";
import type { StepTraces } from "./step-traces.ts";

/** A pod that is told to end waits for a world that takes what it has, from an operator that may be away; then it leaves a checkpoint. */
const leaveMsMax = 15_000;

export interface WorldsOptions {
  readonly settings: TrainerSettings;
  readonly membership: Membership;
  readonly tls: TlsSource;
  readonly host: string;
  readonly run: typeof train;
  /** Without `stopped` and `next`, which are decided here. */
  readonly ports: Omit<TrainPorts, "stopped" | "next">;
  readonly timeout: StepTimeout;
  readonly traces: Pick<StepTraces, "begins">;
  readonly log: Log;
  readonly leaveMs?: number | undefined;
}

/** How a pod's time in a world ended: with all that there was to do, or so that another world may follow. */
type Outcome = { readonly end: RunEnd } | { readonly left: { readonly code: string; readonly message: string } };

/** What it had is with the ranks of the world: there is no other for it. */
const handedOnCode = "HandedOn";
/** No step is left, and the first rank writes the result. */
const completeCode = "Complete";

export class Worlds {
  readonly #options: WorldsOptions;
  /** What this pod has of the run, from world to world. */
  readonly #rankState = new RankState();
  #closing = false;
  /** The last world that it was in had others in it. */
  #others = false;
  #bound: NodeJS.Timeout | undefined;

  constructor(options: WorldsOptions) {
    this.#options = options;
  }

  /** Trains in one world after another. Undefined: it was told to end. Throws what is this pod's own failure. */
  async all(): Promise<RunEnd | undefined> {
    try {
      return await this.#all();
    } finally {
      clearTimeout(this.#bound);
    }
  }

  async #all(): Promise<RunEnd | undefined> {
    const { membership, log } = this.#options;
    for (;;) {
      const { place } = membership;
      if (place === undefined || (this.#closes && !leaves(place))) {
        if (this.#closes) return undefined;
        await membership.changed();
        continue;
      }
      const { epoch, rank, ranks } = place;
      log.info({ world: epoch, rank, ranks, leaving: place.members.length - ranks }, "a world begins");
      this.#others = place.members.length > 1;
      membership.begins(epoch);
      const outcome = await this.#in(place);
      if ("end" in outcome) return outcome.end;
      const { code, message } = outcome.left;
      log.info({ world: epoch, code, why: message }, "the world is over");
      membership.leaves(epoch, code, message);
      this.#others &&= code !== completeCode; // what it has is in the last checkpoint
      if (code === handedOnCode) return undefined;
    }
  }

  /**
   * It is to end. Among others it trains on until a world without it takes what it has; where none does, and where it is alone, the step
   * that is under way is given up by all ranks, with a checkpoint.
   */
  close(): void {
    const { membership, leaveMs = leaveMsMax } = this.#options;
    if (this.#closing || this.#bound !== undefined) return;
    if (this.#others) {
      membership.leave();
      this.#bound = setTimeout(() => this.#end(), leaveMs);
    } else this.#end();
  }

  #end(): void {
    this.#closing = true;
    this.#options.membership.wake();
  }

  get #closes(): boolean {
    return this.#closing || this.#options.membership.stop;
  }

  async #in(place: Place): Promise<Outcome> {
    const { settings, membership, run, ports, timeout } = this.#options;
    const { epoch, members } = place;
    // Worlds that meet hold nothing in memory that a pod could hand on: their checkpoints are what is gone on from.
    if (leaves(place) && settings.spec.local.data.length > 0) return handedOnIn(epoch);
    const wire = members.length > 1 ? await this.#wire(place) : undefined;
    let begun = false;
    // A begin waits for all of its members, of which the newer world may be without some.
    const giveUp = (): void => {
      if (!begun && membership.outdated(epoch)) wire?.end(outdated(epoch));
    };
    const unwatch = membership.watch(giveUp);
    try {
      giveUp();
      const onStart: TrainPorts["onStart"] = (start) => {
        begun = true;
        ports.onStart(start);
      };
      const stopped = (): boolean => this.#closes || membership.outdated(epoch);
      const next = (): Place | undefined => membership.placeAfter(epoch);
      let short = false;
      const onShort = (step: number): void => {
        short = true;
        ports.onShort?.(step);
      };
      const [given, context] = placedIn(settings.spec, this.#context(place, wire));
      this.#options.traces.begins(epoch, context.group?.world ?? 0);
      const running = run(given, { ...ports, onStart, stopped, next, onShort }, context);
      const end = await timeout.notStuck(running, () => wire?.ended !== undefined || membership.outdated(epoch));
      if (leaves(place)) return handedOnIn(epoch);
      if (short) return shortAt(end.step, place.ranks);
      if (end.store === undefined) return stoppedAt(end.step);
      // The first rank writes the result, and is followed where it cannot; until then the others are there.
      return place.rank === 0 ? { end } : { left: { code: completeCode, message: `all ${end.step} steps are done` } };
    } catch (caught) {
      const error = AppError.from(caught, "training");
      if (error.code === stuckCode) throw error;
      if (wire?.ended !== undefined || anotherGoesOn(error)) return { left: { code: error.code, message: error.message } };
      wire?.end(error);
      throw error;
    } finally {
      unwatch();
      await wire?.close();
    }
  }

  /** Ranks have as many threads as one another, so that all are of one speed. */
  #context({ epoch, ranks, members }: Place, wire: WireTransport | undefined): RankContext {
    const own = { run: this.#options.settings.jobUid, world: epoch, rankState: this.#rankState };
    if (wire === undefined) return { ...aloneContext(), ...own };
    const trains = members.slice(0, ranks);
    const nodes = [...new Set(trains.map(({ node }) => node))];
    return { ...own, transport: wire, facts: { node: trains.map(({ node }) => nodes.indexOf(node)), speed: trains.map(() => 1) } };
  }

  async #wire({ epoch, rank, members }: Place): Promise<WireTransport> {
    const { settings, tls, host, log, timeout } = this.#options;
    const { namespace, job, jobUid, ranksPort } = settings;
    const wire = new WireTransport({
      job: jobUid,
      world: epoch,
      rank,
      ranks: members.length,
      certificates: members.map((member) => member.rank),
      namespace,
      name: trainingScope(job),
      tls,
      address: (to) => addressOf(members[to] as WorldMember, ranksPort),
      onProblem: (problem) => log.warn({ world: epoch }, problem),
      frameMs: (what) => timeout.frameMs(what),
    });
    try {
      await wire.listen(host, ranksPort);
      return wire;
    } catch (cause) {
      await wire.close();
      throw new AppError(`ranks port ${ranksPort}: ${(cause as Error).message}`, { code: "ListenFailed", cause, retry: "backoff" });
    }
  }
}

const handedOnIn = (epoch: number): Outcome => ({ left: { code: handedOnCode, message: `world ${epoch} has what this pod had` } });

const outdated = (epoch: number): AppError =>
  new AppError(`world ${epoch} is given up before it has begun: there is a newer one`, {
    code: "StaleWorld",
    operation: "beginning a world",
  });

/** Another rank is at fault, or a newer world has the output: this pod may have its place in the next one. */
const anotherGoesOn = ({ code }: AppError): boolean => code === "GivenUp" || otherRankCodes.includes(code);

/** The operator tells a world of more ranks once they are there, and until then this one again. */
function shortAt(step: number, ranks: number): Outcome {
  const on = ranks === 1 ? "1 rank" : `${ranks} ranks`;
  const message = `after step ${step} the experts that spawn have no room on ${on}; more ranks are waited for: spec.replicas, spec.memoryPerRank`;
  return { left: { code: "DoesNotFit", message } };
}

const stoppedAt = (step: number): Outcome => ({ left: { code: "Stopped", message: `after step ${step}` } });

const addressOf = ({ ip }: WorldMember, port: number): string => (ip.includes(":") ? `[${ip}]:${port}` : `${ip}:${port}`);
