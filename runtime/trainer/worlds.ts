// A training pod's way from world to world: it waits for one with a place for it, trains there over the wire, and where that world ends
// without a fault of its own it goes on in the next one from the state that it has. A failure of its own, or the end of all steps, ends it.
import { AppError } from "../../crds/common.ts";
import type { TrainerSettings } from "../../crds/training-process.ts";
import { trainingScope, type WorldMember } from "../../crds/training-world.ts";
import { WireTransport } from "../comm/wire.ts";
import { otherRankCodes } from "../comm/wire-owner.ts";
import type { Log } from "../observe/log.ts";
import { Holdings } from "../train/ranks/holdings.ts";
import type { RunEnd, TrainPorts, train } from "../train/run.ts";
import { aloneSeat, type Seat } from "../train/seat.ts";
import type { TlsSource } from "../wire/tls.ts";
import type { Membership, Place } from "./membership.ts";
import { placedIn } from "./settings.ts";
import { type StepTimeout, stuckCode } from "./step-timeout.ts";

export interface WorldsOptions {
  readonly settings: TrainerSettings;
  readonly membership: Membership;
  readonly tls: TlsSource;
  readonly host: string;
  readonly run: typeof train;
  /** Without `stopped`, which is decided here. */
  readonly ports: Omit<TrainPorts, "stopped">;
  readonly timeout: StepTimeout;
  readonly log: Log;
}

/** How a pod's time in a world ended: with all that there was to do, or so that another world may follow. */
type Outcome = { readonly end: RunEnd } | { readonly left: { readonly code: string; readonly message: string } };

export class Worlds {
  readonly #options: WorldsOptions;
  /** What this pod has of the run, from world to world. */
  readonly #holdings = new Holdings();
  #closing = false;

  constructor(options: WorldsOptions) {
    this.#options = options;
  }

  /** Trains in one world after another. Undefined: it was told to end. Throws what is this pod's own failure. */
  async all(): Promise<RunEnd | undefined> {
    const { membership, log } = this.#options;
    for (;;) {
      const place = membership.place;
      if (this.#closing) return undefined;
      if (place === undefined) {
        await membership.changed();
        continue;
      }
      log.info({ world: place.epoch, rank: place.rank, ranks: place.ranks.length }, "a world begins");
      membership.begins(place.epoch);
      const outcome = await this.#in(place);
      if ("end" in outcome) return outcome.end;
      const { code, message } = outcome.left;
      log.info({ world: place.epoch, code, why: message }, "the world is over");
      membership.leaves(place.epoch, code, message);
    }
  }

  /** The step that is under way is given up by all ranks, with a checkpoint. */
  close(): void {
    this.#closing = true;
    this.#options.membership.wake();
  }

  async #in(place: Place): Promise<Outcome> {
    const { settings, membership, run, ports, timeout } = this.#options;
    const wire = place.ranks.length > 1 ? await this.#wire(place) : undefined;
    try {
      const stopped = (): boolean => this.#closing || membership.outdated(place.epoch);
      const [given, seat] = placedIn(settings.spec, this.#seat(place, wire));
      const running = run(given, { ...ports, stopped }, seat);
      const end = await timeout.notStuck(running, () => wire?.ended !== undefined || membership.outdated(place.epoch));
      if (end.store === undefined) return stoppedAt(end.step);
      // The first rank writes the result, and is followed where it cannot; until then the others are there.
      return place.rank === 0 ? { end } : { left: { code: "Complete", message: `all ${end.step} steps are done` } };
    } catch (caught) {
      const error = AppError.from(caught, "training");
      if (error.code === stuckCode) throw error;
      if (wire?.ended !== undefined || anotherGoesOn(error)) return { left: { code: error.code, message: error.message } };
      wire?.end(error);
      throw error;
    } finally {
      await wire?.close();
    }
  }

  /** Ranks have as many threads as one another, so that all are of one speed. */
  #seat({ epoch, ranks }: Place, wire: WireTransport | undefined): Seat {
    const own = { run: this.#options.settings.jobUid, world: epoch, holdings: this.#holdings };
    if (wire === undefined) return { ...aloneSeat(), ...own };
    const nodes = [...new Set(ranks.map(({ node }) => node))];
    return { ...own, transport: wire, facts: { node: ranks.map(({ node }) => nodes.indexOf(node)), speed: ranks.map(() => 1) } };
  }

  async #wire({ epoch, rank, ranks }: Place): Promise<WireTransport> {
    const { settings, tls, host, log, timeout } = this.#options;
    const { namespace, job, jobUid, ranksPort } = settings;
    const wire = new WireTransport({
      job: jobUid,
      world: epoch,
      rank,
      ranks: ranks.length,
      namespace,
      name: trainingScope(job),
      tls,
      address: (to) => addressOf(ranks[to] as WorldMember, ranksPort),
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

/** Another rank is at fault, or a newer world has the output: this pod may have its place in the next one. */
const anotherGoesOn = ({ code }: AppError): boolean => code === "GivenUp" || otherRankCodes.includes(code);

const stoppedAt = (step: number): Outcome => ({ left: { code: "Stopped", message: `after step ${step}` } });

const addressOf = ({ ip }: WorldMember, port: number): string => (ip.includes(":") ? `[${ip}]:${port}` : `${ip}:${port}`);
