// The main thread's part in the engine's lanes: which ranks may have one and where, which epochs they may ask for, and what came of them
// for metrics, log and memory. A rank tells the port of its lanes in answer to a ping, so that one without lanes is never asked. Level-
// triggered: the view is made anew whenever something changes, and told when it is another one.

import type { EngineLanes, LaneNews, LanePeer, LaneView } from "../../engine/engine.ts";
import { serverNames, type TlsMaterial, type TlsSource } from "../../net/tls.ts";
import type { Log } from "../../observe/log.ts";
import type { Peers } from "../peers.ts";

interface LaneKeeperOptions {
  /** Unset: an engine without lanes. */
  readonly lanes: EngineLanes | undefined;
  readonly peers: Pick<Peers, "self" | "membership" | "usable" | "onChange" | "options">;
  readonly tls: TlsSource;
  /** The lowest epoch that this rank serves in each layer, -1 in one without a plan. */
  readonly lowestEpochs: () => readonly number[];
  readonly onNews: (news: LaneNews) => void;
  readonly log: Log;
}

export class LaneKeeper {
  readonly #options: LaneKeeperOptions;
  /** Of the lanes of ranks whose stream stands. */
  readonly #ports = new Map<number, number>();
  #told: { readonly text: string; readonly tls: TlsMaterial } | undefined;
  #port = 0;
  /** Frames on lanes that are not answered, as the engine last said. */
  #pending = 0;
  #closed = false;

  constructor(options: LaneKeeperOptions) {
    this.#options = options;
  }

  /** The port on which this rank's engine takes lanes, to be told to others; 0 while it takes none. Before the first membership it knows
   *  no caller, and would refuse them all. */
  get port(): number {
    return this.#options.peers.membership.version === 0 ? 0 : this.#port;
  }

  get inFlight(): number {
    return this.#pending;
  }

  async open(host: string, port: number): Promise<void> {
    const { lanes, peers, tls, onNews, log } = this.#options;
    if (lanes === undefined) return;
    const view = this.#view();
    const { namespace, name } = peers.options;
    this.#port = await lanes.open({ host, port, namespace, name, view }, (news) => {
      for (const problem of news.problems) log.info({ reason: problem }, "a lane ended or was refused; Dispatch goes on");
      this.#pending = news.pending;
      onNews(news);
    });
    tls.provider.addIdentityCertificateListener(() => this.refresh());
    peers.onChange(() => this.refresh());
    this.refresh();
  }

  /** What a rank said of its lanes; undefined: its stream is gone, and with it what it said. */
  heard(rank: number, port: number | undefined): void {
    if ((this.#ports.get(rank) ?? 0) === (port ?? 0)) return;
    if (port) this.#ports.set(rank, port);
    else this.#ports.delete(rank);
    this.refresh();
  }

  refresh(): void {
    const { lanes, log } = this.#options;
    if (lanes === undefined || this.#port === 0 || this.#closed) return;
    const view = this.#view();
    const tls = this.#options.tls.current();
    const text = JSON.stringify([view.peers, view.serves]);
    if (this.#told?.text === text && this.#told.tls === tls) return;
    this.#told = { text, tls };
    lanes.set(view).catch((err) => {
      this.#told = undefined;
      log.error({ err }, "the engine did not take the view of its lanes");
    });
  }

  close(): void {
    this.#closed = true;
  }

  #view(): LaneView {
    const { peers, tls, lowestEpochs } = this.#options;
    const { cert, key, ca } = tls.current();
    const { namespace, name } = peers.options;
    const others = peers.membership.members.filter(({ rank, state }) => rank !== peers.self.rank && state !== "lost");
    const members = others.map(({ rank, podUid, podName, address }): LanePeer => {
      const port = peers.usable(rank) ? this.#ports.get(rank) : undefined;
      const host = address.slice(0, address.lastIndexOf(":"));
      return { rank, podUid, podName, serverName: serverNames.rank(rank, namespace, name), address: port ? `${host}:${port}` : undefined };
    });
    return { self: peers.self, tls: { cert, key, ca }, peers: members, serves: lowestEpochs() };
  }
}
