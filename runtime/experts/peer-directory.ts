// The main thread's part of engine connections: addresses, permitted epochs, and results for metrics and log. A rank reports its port with
// its heartbeats.
import type { EngineConnections, EnginePeer, PeerCounts, PeerView } from "../engine/engine.ts";
import { serverNames, type TlsMaterial, type TlsSource } from "../net/tls.ts";
import type { Log } from "../observe/log.ts";
import type { Peers } from "./peers.ts";

interface PeerDirectoryOptions {
  /** Unset: an engine without connections. */
  readonly connections: EngineConnections | undefined;
  readonly peers: Pick<Peers, "self" | "membership" | "usable" | "onChange" | "options">;
  readonly tls: TlsSource;
  /** See PeerView. */
  readonly plan: { lowestEpochs(): readonly number[]; currentEpochs(): readonly number[] };
  readonly onCounts: (counts: PeerCounts) => void;
  readonly log: Log;
}

export class PeerDirectory {
  readonly #options: PeerDirectoryOptions;
  readonly #ports = new Map<number, number>();
  #last: { readonly text: string; readonly tls: TlsMaterial } | undefined;
  #port = 0;
  #pending = 0;
  #closed = false;

  constructor(options: PeerDirectoryOptions) {
    this.#options = options;
  }

  /** 0 while the engine accepts no connections, such as before the first membership. */
  get port(): number {
    return this.#options.peers.membership.version === 0 ? 0 : this.#port;
  }

  get inFlight(): number {
    return this.#pending;
  }

  async open(host: string, port: number): Promise<void> {
    const { connections, peers, tls, onCounts, log } = this.#options;
    if (connections === undefined) return;
    const view = this.#view();
    const { namespace, name } = peers.options;
    this.#port = await connections.open({ host, port, namespace, name, view }, (counts) => {
      for (const problem of counts.problems) log.info({ reason: problem }, "a connection ended or was refused; frames go elsewhere");
      this.#pending = counts.pending;
      onCounts(this.#closed ? { ...counts, used: [], newer: [] } : counts); // nobody is asked for anything after the end
    });
    tls.provider.addIdentityCertificateListener(() => this.refresh());
    peers.onChange(() => this.refresh());
    this.refresh();
  }

  /** Undefined: the rank's heartbeat is gone. */
  heard(rank: number, port: number | undefined): void {
    if ((this.#ports.get(rank) ?? 0) === (port ?? 0)) return;
    if (port) this.#ports.set(rank, port);
    else this.#ports.delete(rank);
    this.refresh();
  }

  refresh(): void {
    const { connections, log } = this.#options;
    if (connections === undefined || this.#port === 0 || this.#closed) return;
    const view = this.#view();
    const tls = this.#options.tls.current();
    const text = JSON.stringify([view.peers, view.serves, view.epochs]);
    if (this.#last?.text === text && this.#last.tls === tls) return;
    this.#last = { text, tls };
    connections.set(view).catch((err) => {
      this.#last = undefined;
      log.error({ err }, "the engine did not take the view of its connections");
    });
  }

  close(): void {
    this.#closed = true;
  }

  #view(): PeerView {
    const { peers, tls, plan } = this.#options;
    const { cert, key, ca } = tls.current();
    const { namespace, name } = peers.options;
    const others = peers.membership.members.filter(({ rank, state }) => rank !== peers.self.rank && state !== "lost");
    const members = others.map(({ rank, podUid, podName, address, role }): EnginePeer => {
      const usable = peers.usable(rank);
      const port = usable ? this.#ports.get(rank) : undefined;
      const host = address.slice(0, address.lastIndexOf(":"));
      const serverName = serverNames.rank(rank, namespace, name);
      const peer = { rank, podUid, podName, serverName, usable, isForDecode: role === "decode" };
      return { ...peer, address: port ? `${host}:${port}` : undefined };
    });
    return { self: peers.self, tls: { cert, key, ca }, peers: members, serves: plan.lowestEpochs(), epochs: plan.currentEpochs() };
  }
}
