// A training pod's way from world to world: it trains in each world that has a place for it, from its own state. Before it ends it
// hands that state on.
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
import type { StepTraces } from "./trace-server.ts";

/** How long an ending pod waits for a world that takes its state; then it writes a checkpoint. */
const leaveMsMax = 15_000;

export interface WorldsOptions {
  readonly settings: TrainerSettings;
  readonly membership: Membership;
  readonly tls: TlsSource;
  readonly host: string;
  readonly run: typeof train;
  readonly ports: Omit<TrainPorts, "stopped" | "next">;
  readonly timeout: StepTimeout;
  readonly traces: Pick<StepTraces, "begins">;
  readonly log: Log;
  readonly leaveMs?: number | undefined;
}

type Outcome = { readonly end: RunEnd } | { readonly left: { readonly code: string; readonly message: string } };

const handedOnCode = "HandedOn";
const completeCode = "Complete";

export class Worlds {
  readonly #options: WorldsOptions;
  readonly #rankState = new RankState();
  #closing = false;
  #others = false;
  #bound: NodeJS.Timeout | undefined;

  constructor(options: WorldsOptions) {
    this.#options = options;
  }

  /** Trains in one world after another. Returns undefined after `close`; throws this pod's own failures. */
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
      this.#others &&= code !== completeCode;
      if (code === handedOnCode) return undefined;
    }
  }

  /**
   * Tells the pod to end. Among others it trains until a world without it takes its state; otherwise, and when alone, all ranks give up
   * the current step and write a checkpoint.
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
    // Worlds that meet hold no state that a pod could hand on; they continue from checkpoints.
    if (leaves(place) && settings.spec.local.data.length > 0) return handedOnIn(epoch);
    const wire = members.length > 1 ? await this.#wire(place) : undefined;
    let begun = false;
    // A begin waits for all members, and the newer world may lack some.
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
      // The others stay until the first rank has written the result, since one of them takes over where it fails.
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
      members,
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

/** Another rank failed, or a newer world has the output: this pod may have a place in the next one. */
const anotherGoesOn = ({ code }: AppError): boolean => code === "GivenUp" || otherRankCodes.includes(code);

/** The operator announces a larger world once its ranks are there, and repeats this one until then. */
function shortAt(step: number, ranks: number): Outcome {
  const on = ranks === 1 ? "1 rank" : `${ranks} ranks`;
  const message = `after step ${step} the experts that spawn have no room on ${on}; more ranks are waited for: spec.replicas, spec.memoryPerRank`;
  return { left: { code: "DoesNotFit", message } };
}

const stoppedAt = (step: number): Outcome => ({ left: { code: "Stopped", message: `after step ${step}` } });

const addressOf = ({ ip }: WorldMember, port: number): string => (ip.includes(":") ? `[${ip}]:${port}` : `${ip}:${port}`);
